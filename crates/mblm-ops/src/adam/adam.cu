// Adam in place over one tensor, and the gradient sums that clipping needs.

#include "common.cuh"

extern "C" __global__ void adam_step(float* value, const float* gradient, float* m, float* v, long long count, float beta1, float beta2,
                                     float eps, float gradient_scale, float keep, float rate, float root) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count; i += (long long)gridDim.x * blockDim.x) {
        const float g = gradient[i] * gradient_scale;
        const float mean = m[i] * beta1 + g * (1.0f - beta1);
        const float square = v[i] * beta2 + g * g * (1.0f - beta2);
        m[i] = mean;
        v[i] = square;
        value[i] = value[i] * keep - mean * rate / (sqrtf(square) * root + eps);
    }
}

// partial[block] = (Σ x, Σ x²) over the block's elements.
extern "C" __global__ void sums_of_gradient(const float* x, double* partial, long long count) {
    __shared__ double sums[2][256];
    double sum = 0.0, square = 0.0;
    for (long long i = blockIdx.x * 256ll + threadIdx.x; i < count; i += gridDim.x * 256ll) {
        const double v = x[i];
        sum += v;
        square += v * v;
    }
    sums[0][threadIdx.x] = sum;
    sums[1][threadIdx.x] = square;
    for (int half = 128; half > 0; half >>= 1) {
        __syncthreads();
        if (threadIdx.x < half) {
            sums[0][threadIdx.x] += sums[0][threadIdx.x + half];
            sums[1][threadIdx.x] += sums[1][threadIdx.x + half];
        }
    }
    if (threadIdx.x < 2) partial[2 * blockIdx.x + threadIdx.x] = sums[threadIdx.x][0];
}
