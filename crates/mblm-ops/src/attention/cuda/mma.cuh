// Products of bf16 tiles on tensor cores, one warp per product; tile rows lie in shared memory.
//
// A product is c (16, 8) += a (16, 16) b (16, 8). A thread's part, with g = lane / 4 and q = lane %
// 4:
//   c: rows g and g + 8, columns 2q and 2q + 1: c[0], c[1] of the first row, c[2], c[3] of the
//   second; a: the same two rows, columns 2q, 2q + 1 (a[0], a[1]) and 2q + 8, 2q + 9 (a[2], a[3]),
//   two numbers a register; b: rows 2q, 2q + 1 (first register) and 2q + 8, 2q + 9 (second), column
//   g.
// So two neighboring c, rounded, are one a: weights go from one product into the next without
// leaving their registers.

#pragma once

#include "common.cuh"

__device__ __forceinline__ uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// Loads four 8 by 8 tiles: each group of eight lanes gives the row addresses of one tile.
__device__ __forceinline__ void load_tiles(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

// The same, each tile transposed.
__device__ __forceinline__ void load_tiles_transposed(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The transpose of an 8 by 8 tile held by the warp, two numbers per lane.
__device__ __forceinline__ uint32_t transposed(uint32_t x) {
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

// Two numbers rounded into one register, the first in the lower half.
__device__ __forceinline__ uint32_t pack(float first, float second) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ float2 unpack(uint32_t pair) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
}

// 2^x, as precise as the weights, which are rounded afterwards.
__device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Sum and maximum over the four lanes that share a row of c.
__device__ __forceinline__ float row_sum(float v) {
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

__device__ __forceinline__ float row_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

// A lane's row and column in a 16 by 16 tile: for tiles whose rows are rows of a (or of the inner
// dimension of b, loaded transposed), and for tiles whose rows are columns of b.
__device__ __forceinline__ int row_of_a(int lane) { return lane & 15; }
__device__ __forceinline__ int column_of_a(int lane) { return (lane >> 4) << 3; }
__device__ __forceinline__ int row_of_b(int lane) { return ((lane >> 4) << 3) + (lane & 7); }
__device__ __forceinline__ int column_of_b(int lane) { return ((lane >> 3) & 1) << 3; }

// Copies 16 bytes to shared memory asynchronously.
__device__ __forceinline__ void copy_later(uint32_t to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

// The same, or writes zeros if not `valid`.
__device__ __forceinline__ void copy_later(uint32_t to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

// The same for one number.
__device__ __forceinline__ void copy_number_later(uint32_t to, const float* from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid ? 4 : 0) : "memory");
}
__device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

// Rotates a pair of a gradient back: the inverse of (x, y) → (x cos - y sin, y cos + x sin).
__device__ __forceinline__ void turn_back(float& x, float& y, float cos, float sin) {
    const float turned = x * cos + y * sin;
    y = y * cos - x * sin;
    x = turned;
}
