// Rotation of interleaved pairs: a thread takes one pair of one position, for all sequences; angles
// in double precision.

#include "common.cuh"

template <typename T>
__device__ __forceinline__ void rotate(const T* x, T* y, int n, int t, int d, long long start, float sign) {
    const int pairs = d / 2;
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= (long long)t * pairs) return;
    const int position = (int)(i / pairs), pair = (int)(i % pairs);
    double sine, cosine;
    sincos((double)(start + position) * pow(10000.0, -2.0 * pair / d), &sine, &cosine);
    const float sin = sign * (float)sine, cos = (float)cosine;
    for (int sequence = blockIdx.y; sequence < n; sequence += gridDim.y) {
        const size_t at = ((size_t)sequence * t + position) * d + 2 * pair;
        const float a = load(x + at), b = load(x + at + 1);
        store(y + at, a * cos - b * sin);
        store(y + at + 1, b * cos + a * sin);
    }
}

extern "C" __global__ void rotate_f32(const float* x, float* y, int n, int t, int d, long long start, float sign) {
    rotate(x, y, n, t, d, start, sign);
}
extern "C" __global__ void rotate_bf16(const bf16* x, bf16* y, int n, int t, int d, long long start, float sign) {
    rotate(x, y, n, t, d, start, sign);
}
