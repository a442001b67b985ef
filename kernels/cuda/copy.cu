// Copies of rows: stretches of a tail axis, and rows chosen by an index. Bytes move unchanged, in the largest unit that
// addresses and lengths allow; widths and strides are in units.

typedef unsigned long long u64;

// Quotient and remainder; the 64-bit division is many times slower.
__device__ __forceinline__ void divide(u64 a, u64 b, u64& quotient, u64& remainder) {
    if ((a | b) >> 32) {
        quotient = a / b;
        remainder = a % b;
    } else {
        quotient = (unsigned)a / (unsigned)b;
        remainder = (unsigned)a % (unsigned)b;
    }
}

template <typename U>
__device__ __forceinline__ void copy_unit(const U* from, U* to, u64 rows, u64 width, u64 from_stride, u64 to_stride) {
    u64 row, column;
    divide((u64)blockIdx.x * blockDim.x + threadIdx.x, width, row, column);
    if (row < rows) to[row * to_stride + column] = from[row * from_stride + column];
}

// An index outside of `rows` fills its row with ones in every bit: not a number in every float type.
template <typename U>
__device__ __forceinline__ void gather_unit(const U* from, const unsigned* index, U* to, u64 count, u64 width, u64 rows,
                                            U outside) {
    u64 row, column;
    divide((u64)blockIdx.x * blockDim.x + threadIdx.x, width, row, column);
    if (row >= count) return;
    u64 source = index[row];
    to[row * width + column] = source < rows ? from[source * width + column] : outside;
}

#define KERNELS(SIZE, U, OUTSIDE)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                               \
    copy_rows_##SIZE(const U* __restrict__ from, U* __restrict__ to, u64 rows, u64 width, u64 from_stride,          \
                     u64 to_stride) {                                                                               \
        copy_unit(from, to, rows, width, from_stride, to_stride);                                                   \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                               \
    gather_rows_##SIZE(const U* __restrict__ from, const unsigned* __restrict__ index, U* __restrict__ to,          \
                       u64 count, u64 width, u64 rows) {                                                            \
        gather_unit(from, index, to, count, width, rows, OUTSIDE);                                                  \
    }

KERNELS(16, uint4, make_uint4(~0u, ~0u, ~0u, ~0u))
KERNELS(4, unsigned, ~0u)
KERNELS(2, unsigned short, (unsigned short)~0u)
KERNELS(1, unsigned char, (unsigned char)~0u)
