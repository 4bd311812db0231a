// The inputs of attention: rows of tensors (n, t, ·) that may be parts of larger ones.

#pragma once

#include "common.cuh"

// Where the data begins, and elements from one sequence and from one row to the next.
template <typename T>
struct RowsOf {
    const T* data;
    long long sequence, row;
    __device__ __forceinline__ const T* at(int s, int column) const { return data + s * sequence + column; }
};
typedef RowsOf<bf16> Rows;

// One input among the parameters of a kernel, and the argument that they make.
#define ROWS(T, NAME) const T *NAME, long long NAME##_sequence, long long NAME##_row
#define ROWS_OF(T, NAME) RowsOf<T>{NAME, NAME##_sequence, NAME##_row}
