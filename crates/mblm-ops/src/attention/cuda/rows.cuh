// The inputs of attention: rows of tensors (n, t, ·), which may be parts of larger tensors.

#pragma once

#include "common.cuh"

// Start of the data, and elements from one sequence and from one row to the next.
template <typename T>
struct RowsOf {
    const T* data;
    long long sequence, row;
    __device__ __forceinline__ const T* at(int s, int column) const { return data + s * sequence + column; }
};
typedef RowsOf<bf16> Rows;

// One input among a kernel's parameters, and the argument built from those parameters.
#define ROWS(T, NAME) const T *NAME, long long NAME##_sequence, long long NAME##_row
#define ROWS_OF(T, NAME) RowsOf<T>{NAME, NAME##_sequence, NAME##_row}
