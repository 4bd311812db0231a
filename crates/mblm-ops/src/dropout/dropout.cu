// Dropout by a hash of key and element; the host passes the keys of each 2³² elements.

#include "common.cuh"

__device__ __forceinline__ uint32_t fmix32(uint32_t h) {
    h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
    h = (h ^ (h >> 13)) * 0xC2B2AE35u;
    return h ^ (h >> 16);
}

// Elements `begin` to `begin` + `count` of x, whose indices modulo 2³² begin with `first` and do
// not pass 2³².
template <typename T>
__device__ __forceinline__ void drop(const T* x, T* y, long long begin, long long count, uint32_t first, uint32_t k0, uint32_t k1,
                                     uint32_t threshold, float scale) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count; i += (long long)gridDim.x * blockDim.x) {
        const uint32_t low = first + (uint32_t)i;
        const bool kept = fmix32(fmix32(low ^ k0) + k1) >= threshold;
        store(y + begin + i, load(x + begin + i) * (kept ? scale : 0.0f));
    }
}

extern "C" __global__ void drop_f32(const float* x, float* y, long long begin, long long count, int first, int k0, int k1, int threshold,
                                    float scale) {
    drop(x, y, begin, count, (uint32_t)first, (uint32_t)k0, (uint32_t)k1, (uint32_t)threshold, scale);
}
extern "C" __global__ void drop_bf16(const bf16* x, bf16* y, long long begin, long long count, int first, int k0, int k1, int threshold,
                                     float scale) {
    drop(x, y, begin, count, (uint32_t)first, (uint32_t)k0, (uint32_t)k1, (uint32_t)threshold, scale);
}
