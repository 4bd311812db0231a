// Shared by all kernels: activation types, rows in one block, sums over warps and blocks.
//
// A kernel is a template over the activation type T and exported by INSTANTIATE for `float` and
// `bf16`; it computes in float for every T. Sums over rows of several blocks go to buffers by
// `atomicAdd` or, if the result must not depend on the order, by a second kernel.

#pragma once

#include <cuda_bf16.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;

__device__ __forceinline__ float load(const float* p) { return *p; }
__device__ __forceinline__ float load(const bf16* p) { return __bfloat162float(*p); }
__device__ __forceinline__ void store(float* p, float v) { *p = v; }
__device__ __forceinline__ void store(bf16* p, float v) { *p = __float2bfloat16_rn(v); }

// Four neighboring elements, aligned to their size.
__device__ __forceinline__ float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ float4 load4(const bf16* p) {
    const uint2 raw = *reinterpret_cast<const uint2*>(p);
    const float2 a = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.x));
    const float2 b = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.y));
    return make_float4(a.x, a.y, b.x, b.y);
}
__device__ __forceinline__ void store4(float* p, float4 v) { *reinterpret_cast<float4*>(p) = v; }
__device__ __forceinline__ void store4(bf16* p, float4 v) {
    uint2 raw;
    *reinterpret_cast<__nv_bfloat162*>(&raw.x) = __floats2bfloat162_rn(v.x, v.y);
    *reinterpret_cast<__nv_bfloat162*>(&raw.y) = __floats2bfloat162_rn(v.z, v.w);
    *reinterpret_cast<uint2*>(p) = raw;
}

// 1 / (1 + e^(−v)), to the precision of T.
template <typename T>
__device__ __forceinline__ float sigmoid(float v) {
    if constexpr (sizeof(T) == 2) {
        float power, inverse;
        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(v * -1.4426950408889634f));
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + power));
        return inverse;
    }
    return 1.0f / (1.0f + expf(-v));
}

__device__ __forceinline__ float warp_sum(float v) {
    for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
    for (int offset = 16; offset > 0; offset >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, offset));
    return v;
}

// The sum over all threads of a block of whole warps, for every thread. `scratch` has 32 floats.
// Calls may follow each other directly.
__device__ __forceinline__ float block_sum(float v, float* scratch) {
    v = warp_sum(v);
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = (blockDim.x + 31) >> 5;
    __syncthreads();
    if (lane == 0) scratch[warp] = v;
    __syncthreads();
    v = lane < warps ? scratch[lane] : 0.0f;
    return warp_sum(v);
}

__device__ __forceinline__ float block_max(float v, float* scratch) {
    v = warp_max(v);
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = (blockDim.x + 31) >> 5;
    __syncthreads();
    if (lane == 0) scratch[warp] = v;
    __syncthreads();
    v = lane < warps ? scratch[lane] : __int_as_float(0xff800000);
    return warp_max(v);
}

// V neighboring elements (1, or 8 aligned to 16 bytes) as floats, and back.
template <int V, typename T>
__device__ __forceinline__ void load_v(const T* p, float (&v)[V]) {
    if constexpr (V == 1) {
        v[0] = load(p);
    } else {
        static_assert(V % 4 == 0, "whole groups of four");
        if constexpr (sizeof(T) == 2 && V == 8) {
            const uint4 raw = *reinterpret_cast<const uint4*>(p);
            const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float2 pair = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&words[i]));
                v[2 * i] = pair.x;
                v[2 * i + 1] = pair.y;
            }
        } else {
#pragma unroll
            for (int i = 0; i < V; i += 4) {
                const float4 four = load4(p + i);
                v[i] = four.x; v[i + 1] = four.y; v[i + 2] = four.z; v[i + 3] = four.w;
            }
        }
    }
}

template <int V, typename T>
__device__ __forceinline__ void store_v(T* p, const float (&v)[V]) {
    if constexpr (V == 1) {
        store(p, v[0]);
    } else if constexpr (sizeof(T) == 2 && V == 8) {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
            *reinterpret_cast<__nv_bfloat162*>(&words[i]) = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
        *reinterpret_cast<uint4*>(p) = make_uint4(words[0], words[1], words[2], words[3]);
    } else {
#pragma unroll
        for (int i = 0; i < V; i += 4) store4(p + i, make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]));
    }
}

// Exports KERNEL<T, V>, a template of `__device__` functions, for every type and width: name1_f32,
// name8_f32, name1_bf16, name8_bf16.
#define EXPORT_WIDTHS(NAME, PARAMETERS_F32, PARAMETERS_BF16, ARGUMENTS)                                   \
    extern "C" __global__ void NAME##1_f32 PARAMETERS_F32 { NAME<float, 1> ARGUMENTS; }                  \
    extern "C" __global__ void NAME##8_f32 PARAMETERS_F32 { NAME<float, 8> ARGUMENTS; }                  \
    extern "C" __global__ void NAME##1_bf16 PARAMETERS_BF16 { NAME<bf16, 1> ARGUMENTS; }                 \
    extern "C" __global__ void NAME##8_bf16 PARAMETERS_BF16 { NAME<bf16, 8> ARGUMENTS; }

#define LIST(...) (__VA_ARGS__)
