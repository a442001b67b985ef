// Kernels of one number and one tensor.

extern "C" __global__ void __launch_bounds__(256) fill(T* __restrict__ out, float value, long long n) {
    long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i < n) out[i] = from_float(value);
}

// x = cap * tanh(x / cap), in place.
extern "C" __global__ void __launch_bounds__(256) soft_cap(T* __restrict__ x, float cap, long long n) {
    long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i < n) x[i] = from_float(cap * tanhf(to_float(x[i]) / cap));
}
