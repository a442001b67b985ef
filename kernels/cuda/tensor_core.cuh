// Put before the sources that use tensor cores through warp-wide instructions (compute capability 8.0 and above), for
// bf16 and f16. Fragment layouts are those of mma.m16n8k16 in the PTX manual: with g = lane / 4 and t = lane % 4, an
// accumulator holds c[0..2] = row g, columns 2t and 2t + 1, and c[2..4] = the same columns of row g + 8; the first operand
// a[0], a[1] = rows g and g + 8 of its columns 2t and 2t + 1, a[2], a[3] = the same of columns 2t + 8 and 2t + 9. So two
// neighbouring accumulators, rounded, are a first operand.

// The 32-bit address of shared memory.
__device__ __forceinline__ unsigned shared_address(const void* pointer) {
    return (unsigned)__cvta_generic_to_shared(pointer);
}

// Copies 16 bytes to shared memory without waiting; writes zeros where `inside` is false.
__device__ __forceinline__ void copy_async(unsigned to, const void* from, bool inside) {
    int bytes = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
// The same for 8 bytes.
__device__ __forceinline__ void copy_async_pair(unsigned to, const void* from, bool inside) {
    int bytes = inside ? 8 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of the thread's groups are unfinished.
template <int N> __device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(unsigned (&to)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

#if ELEMENT == 2
#define TENSOR_CORE_TYPE "f16"
#else
#define TENSOR_CORE_TYPE "bf16"
#endif

// c[16 x 8] += a[16 x 16] b[16 x 8], summed in f32.
__device__ __forceinline__ void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32." TENSOR_CORE_TYPE "." TENSOR_CORE_TYPE ".f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two numbers rounded to T, the first in the lower half.
__device__ __forceinline__ unsigned round_pair(float low, float high) {
    unsigned pair;
    asm("cvt.rn." TENSOR_CORE_TYPE "x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// 2^x with two units of error in the last place; 0 for minus infinity.
__device__ __forceinline__ float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float fast_reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Loads ROWS x WIDTH elements of a matrix into shared memory with PITCH elements to a row, without waiting; rows from
// `rows` on become zeros. Width and pitch are multiples of 8, addresses of 16 bytes.
template <int ROWS, int WIDTH, int PITCH, int THREADS>
__device__ __forceinline__ void load_tile(unsigned to, const T* from, long long stride, int rows) {
    constexpr int PACKS = WIDTH / 8, STEPS = (ROWS * PACKS + THREADS - 1) / THREADS;
    if constexpr (THREADS % PACKS == 0) {
        // A thread keeps to its column: one addition to the next row.
        constexpr int APART = THREADS / PACKS;
        int row = (int)threadIdx.x / PACKS, pack = (int)threadIdx.x % PACKS;
        const T* source = from + row * stride + 8 * pack;
        to += 2 * (row * PITCH + 8 * pack);
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            if (ROWS % APART != 0 && row + step * APART >= ROWS) break;
            bool inside = row + step * APART < rows;
            copy_async(to + 2 * step * APART * PITCH, inside ? source : from, inside);
            source += APART * stride;
        }
    } else {
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            int i = (int)threadIdx.x + step * THREADS, row = i / PACKS, pack = i % PACKS;
            if (ROWS * PACKS % THREADS != 0 && i >= ROWS * PACKS) break;
            bool inside = row < rows;
            copy_async(to + 2 * (row * PITCH + 8 * pack), from + (inside ? row * stride : 0) + 8 * pack, inside);
        }
    }
}

// Writes a warp's own ROWS x WIDTH elements of shared memory to `to`, the rows below `rows`, after the warp wrote them.
template <int ROWS, int WIDTH, int PITCH>
__device__ __forceinline__ void store_tile(const T* from, T* to, long long stride, int rows) {
    __syncwarp();
    constexpr int PACKS = WIDTH / 8;
#pragma unroll 4
    for (int i = (int)threadIdx.x % 32; i < ROWS * PACKS; i += 32) {
        int row = i / PACKS, pack = i % PACKS;
        if (row < rows) store_pack(to + row * stride + 8 * pack, load_pack(from + row * PITCH + 8 * pack));
    }
}

// Where a lane's address for load_matrices lies in a tile, in bytes: for a first operand, or a transposed second one,
// matrices are ordered down, then right; for a second operand that is stored with its columns as rows, right, then down.
template <int PITCH> __device__ __forceinline__ unsigned down_then_right() {
    int lane = threadIdx.x % 32;
    return 2 * (lane % 16 * PITCH + lane / 16 * 8);
}
template <int PITCH> __device__ __forceinline__ unsigned right_then_down() {
    int lane = threadIdx.x % 32;
    return 2 * ((lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 8);
}

template <int M, int N> __device__ __forceinline__ void clear(float (&c)[M][N][4]) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) c[m][n][i] = 0.0f;
}

// A first operand [16 M x 16 K] from shared memory; `from` is the lane's address.
template <int M, int K, int PITCH>
__device__ __forceinline__ void load_operand(unsigned (&to)[M][K][4], unsigned from) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int k = 0; k < K; ++k) load_matrices(to[m][k], from + 2 * (m * 16 * PITCH + k * 16));
}

// c[16 M x 8 N] = a[16 M x DEPTH] b[8 N x DEPTH]^T, both from shared memory; `a` and `b` are the lane's addresses.
template <int M, int N, int DEPTH, int PITCH>
__device__ __forceinline__ void multiply_rows(float (&c)[M][N][4], unsigned a, unsigned b) {
    clear(c);
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k) {
        unsigned left[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) load_matrices(left[m], a + 2 * (m * 16 * PITCH + k * 16));
#pragma unroll
        for (int n = 0; n < N / 2; ++n) {
            unsigned right[4];
            load_matrices(right, b + 2 * (n * 16 * PITCH + k * 16));
#pragma unroll
            for (int m = 0; m < M; ++m) {
                multiply_add(c[m][2 * n], left[m], right[0], right[1]);
                multiply_add(c[m][2 * n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

// The same with `a` in registers.
template <int M, int N, int DEPTH, int PITCH>
__device__ __forceinline__ void multiply_rows(float (&c)[M][N][4], const unsigned (&a)[M][DEPTH / 16][4], unsigned b) {
    clear(c);
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k)
#pragma unroll
        for (int n = 0; n < N / 2; ++n) {
            unsigned right[4];
            load_matrices(right, b + 2 * (n * 16 * PITCH + k * 16));
#pragma unroll
            for (int m = 0; m < M; ++m) {
                multiply_add(c[m][2 * n], a[m][k], right[0], right[1]);
                multiply_add(c[m][2 * n + 1], a[m][k], right[2], right[3]);
            }
        }
}

// Rounds accumulators [16 M x 16 K] to first operands.
template <int M, int K>
__device__ __forceinline__ void round_operand(unsigned (&to)[M][K][4], const float (&from)[M][2 * K][4]) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int k = 0; k < K; ++k)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                to[m][k][2 * half] = round_pair(from[m][2 * k + half][0], from[m][2 * k + half][1]);
                to[m][k][2 * half + 1] = round_pair(from[m][2 * k + half][2], from[m][2 * k + half][3]);
            }
}

// c[16 M x 8 N] += a[16 M x 16 K] b[16 K x 8 N], `a` in registers, `b` in shared memory.
template <int M, int N, int K, int PITCH>
__device__ __forceinline__ void add_product(float (&c)[M][N][4], const unsigned (&a)[M][K][4], unsigned b) {
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
        for (int n = 0; n < N / 2; ++n) {
            unsigned right[4];
            load_matrices_transposed(right, b + 2 * (k * 16 * PITCH + n * 16));
#pragma unroll
            for (int m = 0; m < M; ++m) {
                multiply_add(c[m][2 * n], a[m][k], right[0], right[1]);
                multiply_add(c[m][2 * n + 1], a[m][k], right[2], right[3]);
            }
        }
}

// Rounds a warp's accumulators, times one factor, to its rows of a tile in shared memory; `to` is the warp's first row.
template <int M, int N, int PITCH>
__device__ __forceinline__ void store_accumulators(T* to, const float (&c)[M][N][4], float factor) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                *reinterpret_cast<unsigned*>(to + (m * 16 + half * 8 + g) * PITCH + n * 8 + 2 * t) =
                    round_pair(c[m][n][2 * half] * factor, c[m][n][2 * half + 1] * factor);
}
