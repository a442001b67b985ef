// Weights in few bits: 4-bit levels in blocks of 64 with a scale, scales quantised again in blocks of 256, and 8-bit rows.
// The formats are those of kernels/src/quant.rs, whose codes and values these kernels repeat bit for bit.
//
// The sixteen levels, and the tree of their midpoints, lie in shared memory: sixteen words in sixteen banks, which the
// threads of a warp read in any pattern without conflict.

typedef unsigned long long u64;
typedef unsigned char u8;

#define BLOCK 64
#define NESTED_BLOCK 256
#define SMALLEST 1e-38f
#define INT8_UNIT 7.874016e-3f

// By kind: 0 NF4, 1 FP4.
__constant__ float LEVELS[2][16] = {
    {-1.0f, -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f, 0.0f, 0.0795803f,
     0.1609302f, 0.2461123f, 0.33791524f, 0.44070983f, 0.562617f, 0.72295684f, 1.0f},
    {0.0f, 0.0625f / 12.0f, 8.0f / 12.0f, 1.0f, 4.0f / 12.0f, 0.5f, 2.0f / 12.0f, 0.25f, 0.0f, -0.0625f / 12.0f,
     -8.0f / 12.0f, -1.0f, -4.0f / 12.0f, -0.5f, -2.0f / 12.0f, -0.25f}};
// Codes by ascending level.
__constant__ u8 ORDER[2][16] = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
                                {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3}};

// Scales of blocks: plain, or codes of a map of 256 levels in units of `absmax`, plus an offset.
struct Scales {
    const float* absmax;
    const u8* codes;
    const float* map;
    const float* offset;

    __device__ __forceinline__ float at(u64 block) const {
        if (codes == nullptr) return absmax[block];
        return __fadd_rn(__fmul_rn(map[codes[block]], absmax[block / NESTED_BLOCK]), *offset);
    }
};

__device__ __forceinline__ float element(const T* x, u64 i, u64 length) { return i < length ? to_float(x[i]) : 0.0f; }

// Eight elements, whole packs at once.
__device__ __forceinline__ void read8(const T* from, float (&value)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i += Pack::N) {
        Pack pack = load_pack(from + i);
#pragma unroll
        for (int j = 0; j < Pack::N; j++) value[i + j] = to_float(pack.at[j]);
    }
}
__device__ __forceinline__ void write8(T* to, const float (&value)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i += Pack::N) {
        Pack pack;
#pragma unroll
        for (int j = 0; j < Pack::N; j++) pack.at[j] = from_float(value[i + j]);
        store_pack(to + i, pack);
    }
}

// Size as bits: ordered as the number, and NaN above all.
__device__ __forceinline__ unsigned size_bits(float x) { return __float_as_uint(x) & 0x7fffffffu; }

// Where in a word of four bytes the code of element i lies: the first of a pair in the high half of its byte.
__device__ __forceinline__ int shift_of(int i) { return (i / 2) * 8 + (i % 2 ? 0 : 4); }

// Eight threads make a block of 64 weights. `packed`: w may be read in packs and codes written in words.
extern "C" __global__ void __launch_bounds__(256)
quantize_4bit(const T* __restrict__ w, u8* __restrict__ codes, float* __restrict__ absmax, u64 length, int kind,
              int packed) {
    __shared__ float tree[16];
    __shared__ unsigned order[16];
    if (threadIdx.x < 16) {
        int node = threadIdx.x;
        order[node] = ORDER[kind][node];
        if (node > 0) {
            // The nodes of a balanced tree, breadth first, over the midpoints in ascending order.
            int depth = 31 - __clz(node);
            int rank = (2 * (node - (1 << depth)) + 1) * (1 << (3 - depth)) - 1;
            tree[node] = (LEVELS[kind][ORDER[kind][rank]] + LEVELS[kind][ORDER[kind][rank + 1]]) * 0.5f;
        }
    }
    __syncthreads();
    u64 start = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    bool whole = packed && start + 8 <= length;
    float value[8];
    if (whole) {
        read8(w + start, value);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) value[i] = element(w, start + i, length);
    }
    unsigned greatest = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) greatest = max(greatest, size_bits(value[i]));
#pragma unroll
    for (int offset = 1; offset < 8; offset *= 2)
        greatest = max(greatest, __shfl_xor_sync(0xffffffffu, greatest, offset));
    float scale = __uint_as_float(greatest);
    if (threadIdx.x % 8 == 0 && start < length) absmax[start / BLOCK] = scale;
    float inverse = __frcp_rn(fmaxf(scale, SMALLEST));
    unsigned word = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float x = value[i] * inverse;
        int node = 1;
#pragma unroll
        for (int level = 0; level < 4; level++) node = 2 * node + (x > tree[node] ? 1 : 0);
        word |= order[node - 16] << shift_of(i);
    }
    if (whole) {
        *reinterpret_cast<unsigned*>(codes + start / 2) = word;
    } else {
        for (int i = 0; i < 4; i++)
            if (start + 2 * i < length) codes[start / 2 + i] = (u8)(word >> 8 * i);
    }
}

// Four words of eight codes a thread, a block's threads side by side. `packed`: as above, for out.
extern "C" __global__ void __launch_bounds__(256)
dequantize_4bit(const u8* __restrict__ codes, const float* __restrict__ absmax, const u8* __restrict__ scale_codes,
                const float* __restrict__ map, const float* __restrict__ offset, T* __restrict__ out, u64 length,
                int kind, int packed) {
    __shared__ float levels[16];
    if (threadIdx.x < 16) levels[threadIdx.x] = LEVELS[kind][threadIdx.x];
    Scales scales = {absmax, scale_codes, map, offset};
    u64 first = (u64)blockIdx.x * 1024 + threadIdx.x;
    unsigned word[4];
    float scale[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        u64 start = (first + j * 256) * 8;
        word[j] = 0;
        scale[j] = start < length ? scales.at(start / BLOCK) : 0.0f;
        if (packed && start + 8 <= length) {
            word[j] = *reinterpret_cast<const unsigned*>(codes + start / 2);
        } else {
            for (int i = 0; i < 4; i++)
                if (start + 2 * i < length) word[j] |= (unsigned)codes[start / 2 + i] << 8 * i;
        }
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 4; j++) {
        u64 start = (first + j * 256) * 8;
        float value[8];
#pragma unroll
        for (int i = 0; i < 8; i++) value[i] = levels[word[j] >> shift_of(i) & 15] * scale[j];
        if (packed && start + 8 <= length) {
            write8(out + start, value);
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (start + i < length) out[start + i] = from_float(value[i]);
        }
    }
}

// The sum over a block of 256, in every thread.
__device__ __forceinline__ double block_sum(double x) {
    __shared__ double shared[8];
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = x;
    __syncthreads();
    x = 0.0;
#pragma unroll
    for (int warp = 0; warp < 8; warp++) x += shared[warp];
    return x;
}

extern "C" __global__ void __launch_bounds__(256)
absmax_parts(const float* __restrict__ absmax, u64 length, double* __restrict__ parts) {
    double sum = 0.0;
    for (u64 i = (u64)blockIdx.x * 256 + threadIdx.x; i < length; i += (u64)gridDim.x * 256) sum += (double)absmax[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
absmax_mean(const double* __restrict__ parts, int count, u64 length, float* __restrict__ mean) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += 256) sum += parts[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *mean = (float)(sum / (double)length);
}

// A block quantises 256 scales.
extern "C" __global__ void __launch_bounds__(256)
quantize_absmax(const float* __restrict__ absmax, const float* __restrict__ map, const float* __restrict__ offset,
                u8* __restrict__ codes, float* __restrict__ nested, u64 length) {
    // The midpoints below each level but the first; the tree's root is the middle.
    __shared__ float bounds[256];
    __shared__ unsigned sizes[8];
    int t = threadIdx.x;
    bounds[t] = t < 255 ? (map[t] + map[t + 1]) * 0.5f : 0.0f;
    u64 i = (u64)blockIdx.x * NESTED_BLOCK + t;
    float x = i < length ? __fsub_rn(absmax[i], *offset) : 0.0f;
    unsigned greatest = size_bits(x);
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) greatest = max(greatest, __shfl_xor_sync(0xffffffffu, greatest, lane));
    if (t % 32 == 0) sizes[t / 32] = greatest;
    __syncthreads();
#pragma unroll
    for (int warp = 0; warp < 8; warp++) greatest = max(greatest, sizes[warp]);
    float scale = __uint_as_float(greatest);
    if (t == 0) nested[blockIdx.x] = scale;
    if (i >= length) return;
    x *= __frcp_rn(fmaxf(scale, SMALLEST));
    // How many midpoints x exceeds.
    int below = 0;
#pragma unroll
    for (int step = 128; step > 0; step >>= 1)
        if (x > bounds[below + step - 1]) below += step;
    codes[i] = (u8)below;
}

extern "C" __global__ void __launch_bounds__(256)
dequantize_absmax(const float* __restrict__ nested, const u8* __restrict__ codes, const float* __restrict__ map,
                  const float* __restrict__ offset, float* __restrict__ absmax, u64 length) {
    u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
    Scales scales = {nested, codes, map, offset};
    if (i < length) absmax[i] = scales.at(i);
}

// A block quantises a row.
extern "C" __global__ void __launch_bounds__(256)
quantize_int8(const T* __restrict__ w, signed char* __restrict__ codes, float* __restrict__ absmax, u64 width) {
    __shared__ unsigned sizes[8];
    const T* row = w + blockIdx.x * width;
    unsigned greatest = 0;
    for (u64 i = threadIdx.x; i < width; i += 256) greatest = max(greatest, size_bits(to_float(row[i])));
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) greatest = max(greatest, __shfl_xor_sync(0xffffffffu, greatest, lane));
    if (threadIdx.x % 32 == 0) sizes[threadIdx.x / 32] = greatest;
    __syncthreads();
#pragma unroll
    for (int warp = 0; warp < 8; warp++) greatest = max(greatest, sizes[warp]);
    float scale = __uint_as_float(greatest);
    if (threadIdx.x == 0) absmax[blockIdx.x] = scale;
    float units = scale > 0.0f ? __fdiv_rn(127.0f, scale) : 0.0f;
    for (u64 i = threadIdx.x; i < width; i += 256) {
        float x = __fmul_rn(to_float(row[i]), units);
        // Not a number gives 0, as a cast does on the CPU.
        int code = x == x ? __float2int_rn(fminf(fmaxf(x, -127.0f), 127.0f)) : 0;
        codes[blockIdx.x * width + i] = (signed char)code;
    }
}

// Eight bytes, -128 to 127 each: their bits as the low fraction of a float of known exponent.
__device__ __forceinline__ void widen8(uint2 bytes, float (&value)[8]) {
    bytes.x ^= 0x80808080u;
    bytes.y ^= 0x80808080u;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        value[i] = __uint_as_float(__byte_perm(bytes.x, 0x4b000000u, 0x7440 | i)) - 8388736.0f;
        value[i + 4] = __uint_as_float(__byte_perm(bytes.y, 0x4b000000u, 0x7440 | i)) - 8388736.0f;
    }
}

// Eight codes a thread. `packed`: rows of whole eights, at addresses for wide accesses.
extern "C" __global__ void __launch_bounds__(256)
dequantize_int8(const signed char* __restrict__ codes, const float* __restrict__ absmax, T* __restrict__ out,
                u64 length, u64 width, int packed) {
    u64 start = ((u64)blockIdx.x * 256 + threadIdx.x) * 8;
    if (start >= length) return;
    if (packed) {
        u64 row = (start | width) >> 32 ? start / width : (unsigned)start / (unsigned)width;
        float scale = absmax[row];
        float value[8];
        widen8(*reinterpret_cast<const uint2*>(codes + start), value);
#pragma unroll
        for (int i = 0; i < 8; i++) value[i] = __fmul_rn(__fmul_rn(value[i], scale), INT8_UNIT);
        write8(out + start, value);
    } else {
        for (u64 i = start; i < start + 8 && i < length; i++)
            out[i] = from_float(__fmul_rn(__fmul_rn((float)codes[i], absmax[i / width]), INT8_UNIT));
    }
}

// Eight weights of a row, as they are stored.
struct FourBits {
    const unsigned* words;
    Scales scales;
    const float* levels;

    struct Piece {
        unsigned word;
        float scale;
    };
    __device__ __forceinline__ Piece load(u64 at) const { return {words[at / 8], scales.at(at / BLOCK)}; }
    __device__ __forceinline__ void widen(const Piece& piece, float (&value)[8]) const {
#pragma unroll
        for (int i = 0; i < 8; i++) value[i] = levels[piece.word >> shift_of(i) & 15];
    }
    __device__ __forceinline__ float row_scale(u64) const { return 1.0f; }
};

struct EightBits {
    const uint2* words;
    const float* absmax;

    struct Piece {
        uint2 word;
        float scale;
    };
    __device__ __forceinline__ Piece load(u64 at) const { return {words[at / 8], 1.0f}; }
    __device__ __forceinline__ void widen(const Piece& piece, float (&value)[8]) const { widen8(piece.word, value); }
    __device__ __forceinline__ float row_scale(u64 n) const { return absmax[n] * INT8_UNIT; }
};

// out[r][n] = sum over k of x[r][k] w[n][k], for at most R rows of x. A warp takes OUT rows of w, so that they share what
// it reads of x; each lane takes eight columns of every 256. k is a multiple of 8.
template <int R, int OUT, typename Weights>
__device__ __forceinline__ void few_rows(const T* x, int rows, const Weights& weights, T* out, int n, int k) {
    // Steps of 256 columns whose weights are asked for together.
    constexpr int AHEAD = 4 / OUT > 0 ? 4 / OUT : 1;
    int lane = threadIdx.x & 31;
    int first = (blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5)) * OUT;
    if (first >= n) return;
    float sum[R][OUT];
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int o = 0; o < OUT; o++) sum[r][o] = 0.0f;
    for (int base = lane * 8; base < k; base += AHEAD * 256) {
        typename Weights::Piece piece[AHEAD][OUT];
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
#pragma unroll
            for (int o = 0; o < OUT; o++) {
                // Beyond the end the last one is read again, and left out below.
                int column = min(base + a * 256, k - 8), row = min(first + o, n - 1);
                piece[a][o] = weights.load((u64)row * k + column);
            }
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int column = base + a * 256;
            if (column >= k) break;
            float w[OUT][8];
#pragma unroll
            for (int o = 0; o < OUT; o++) weights.widen(piece[a][o], w[o]);
#pragma unroll
            for (int r = 0; r < R; r++) {
                float value[8];
                read8(x + (u64)min(r, rows - 1) * k + column, value);
#pragma unroll
                for (int o = 0; o < OUT; o++) {
                    float dot = 0.0f;
#pragma unroll
                    for (int i = 0; i < 8; i++) dot = fmaf(value[i], w[o][i], dot);
                    sum[r][o] = fmaf(dot, piece[a][o].scale, sum[r][o]);
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int o = 0; o < OUT; o++) {
            float total = warp_sum(sum[r][o]);
            if (lane == 0 && r < rows && first + o < n)
                out[(u64)r * n + first + o] = from_float(total * weights.row_scale(first + o));
        }
}

#define FEW_ROWS(R, OUT)                                                                                            \
    extern "C" __global__ void __launch_bounds__(128)                                                               \
    linear_4bit_##R(const T* __restrict__ x, int rows, const u8* __restrict__ codes,                                \
                    const float* __restrict__ absmax, const u8* __restrict__ scale_codes,                           \
                    const float* __restrict__ map, const float* __restrict__ offset, T* __restrict__ out, int n,    \
                    int k, int kind) {                                                                              \
        __shared__ float levels[16];                                                                                \
        if (threadIdx.x < 16) levels[threadIdx.x] = LEVELS[kind][threadIdx.x];                                      \
        __syncthreads();                                                                                            \
        FourBits weights = {reinterpret_cast<const unsigned*>(codes), {absmax, scale_codes, map, offset}, levels};  \
        few_rows<R, OUT>(x, rows, weights, out, n, k);                                                              \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(128)                                                               \
    linear_int8_##R(const T* __restrict__ x, int rows, const u8* __restrict__ codes,                                \
                    const float* __restrict__ absmax, T* __restrict__ out, int n, int k) {                          \
        EightBits weights = {reinterpret_cast<const uint2*>(codes), absmax};                                        \
        few_rows<R, OUT>(x, rows, weights, out, n, k);                                                              \
    }

FEW_ROWS(1, 1)
FEW_ROWS(2, 2)
FEW_ROWS(4, 4)
FEW_ROWS(8, 4)
