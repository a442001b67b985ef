// Functions of two numbers where the second operand may be shorter, and sums over what it was repeated to.
//
// Sums have two stages: parts in f32, each by a fixed tree, then their sum in the order of the parts. An elementwise
// thread takes as many consecutive elements as 16 bytes of T hold, and reads them before it writes.

typedef unsigned long long u64;

// How element i of the first operand meets the second.
enum Mode { SAME = 0, ONE = 1, REPEAT = 2, SPAN = 3 };

// Bits of `packed`.
#define PACKED 1         // the long operands allow 16-byte accesses
#define PACKED_SECOND 2  // so does the repeated second operand

struct Part {
    u64 start;
    int count;
    bool packed;
};

__device__ __forceinline__ Part part_of(u64 length, int packed) {
    Part part;
    part.start = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * Pack::N;
    u64 left = part.start < length ? length - part.start : 0;
    part.count = left < (u64)Pack::N ? (int)left : Pack::N;
    part.packed = (packed & PACKED) && part.count == Pack::N;
    return part;
}

__device__ __forceinline__ void read(const T* from, const Part& part, float (&value)[Pack::N]) {
    if (part.packed) {
        Pack pack = load_pack(from);
#pragma unroll
        for (int i = 0; i < Pack::N; i++) value[i] = to_float(pack.at[i]);
    } else {
#pragma unroll
        for (int i = 0; i < Pack::N; i++) value[i] = i < part.count ? to_float(from[i]) : 0.0f;
    }
}

__device__ __forceinline__ void write(T* to, const Part& part, const float (&value)[Pack::N]) {
    if (part.packed) {
        Pack pack;
#pragma unroll
        for (int i = 0; i < Pack::N; i++) pack.at[i] = from_float(value[i]);
        store_pack(to, pack);
    } else {
#pragma unroll
        for (int i = 0; i < Pack::N; i++)
            if (i < part.count) to[i] = from_float(value[i]);
    }
}

// The 64-bit division is many times slower.
__device__ __forceinline__ void divide(u64 a, u64 b, u64& quotient, u64& remainder) {
    if ((a | b) >> 32) {
        quotient = a / b;
        remainder = a % b;
    } else {
        quotient = (unsigned)a / (unsigned)b;
        remainder = (unsigned)a % (unsigned)b;
    }
}

// What of the second operand, `length` long or each element for `span`, belongs to a part.
__device__ __forceinline__ void read_second(const T* b, const Part& part, u64 length, u64 span, int mode, int packed,
                                            float (&value)[Pack::N]) {
    if (mode == SAME) {
        read(b + part.start, part, value);
    } else if (mode == ONE) {
        float x = to_float(*b);
#pragma unroll
        for (int i = 0; i < Pack::N; i++) value[i] = x;
    } else if (mode == REPEAT) {
        u64 turn, at;
        divide(part.start, length, turn, at);
        if (part.packed && (packed & PACKED_SECOND)) {
            read(b + at, part, value);
        } else {
#pragma unroll
            for (int i = 0; i < Pack::N; i++) {
                value[i] = to_float(b[at]);
                if (++at == length) at = 0;
            }
        }
    } else {
        u64 block, within;
        divide(part.start, span, block, within);
#pragma unroll
        for (int i = 0; i < Pack::N; i++) {
            value[i] = i < part.count ? to_float(b[block]) : 0.0f;
            if (++within == span) {
                within = 0;
                block++;
            }
        }
    }
}

// One where the first of two is the greater, and half of it where they are equal.
__device__ __forceinline__ float first_wins(float a, float b) { return a > b ? 1.0f : a == b ? 0.5f : 0.0f; }

struct Add {
    static constexpr bool READS_FIRST = false;
    static __device__ __forceinline__ float value(float a, float b) { return a + b; }
    static __device__ __forceinline__ float first(float, float) { return 1.0f; }
    static __device__ __forceinline__ float second(float, float) { return 1.0f; }
};
struct Sub {
    static constexpr bool READS_FIRST = false;
    static __device__ __forceinline__ float value(float a, float b) { return a - b; }
    static __device__ __forceinline__ float first(float, float) { return 1.0f; }
    static __device__ __forceinline__ float second(float, float) { return -1.0f; }
};
struct Mul {
    static constexpr bool READS_FIRST = true;
    static __device__ __forceinline__ float value(float a, float b) { return a * b; }
    static __device__ __forceinline__ float first(float, float b) { return b; }
    static __device__ __forceinline__ float second(float a, float) { return a; }
};
struct Div {
    static constexpr bool READS_FIRST = true;
    static __device__ __forceinline__ float value(float a, float b) { return a / b; }
    static __device__ __forceinline__ float first(float, float b) { return 1.0f / b; }
    static __device__ __forceinline__ float second(float a, float b) { return -a / (b * b); }
};
// A NaN on either side gives NaN.
struct Maximum {
    static constexpr bool READS_FIRST = true;
    static __device__ __forceinline__ float value(float a, float b) { return a > b || a != a ? a : b; }
    static __device__ __forceinline__ float first(float a, float b) { return first_wins(a, b); }
    static __device__ __forceinline__ float second(float a, float b) { return 1.0f - first_wins(a, b); }
};
struct Minimum {
    static constexpr bool READS_FIRST = true;
    static __device__ __forceinline__ float value(float a, float b) { return a < b || a != a ? a : b; }
    static __device__ __forceinline__ float first(float a, float b) { return first_wins(b, a); }
    static __device__ __forceinline__ float second(float a, float b) { return 1.0f - first_wins(b, a); }
};

// Numbered as `Binary` declares them.
template <typename Body> __device__ __forceinline__ void with_operator(int op, Body body) {
    switch (op) {
        case 0: return body(Add());
        case 1: return body(Sub());
        case 2: return body(Mul());
        case 3: return body(Div());
        case 4: return body(Maximum());
        case 5: return body(Minimum());
    }
}

extern "C" __global__ void __launch_bounds__(256)
binary(const T* a, const T* b, T* out, u64 length, u64 second_length, u64 span, int mode, int op, int packed) {
    Part part = part_of(length, packed);
    if (part.count == 0) return;
    float x[Pack::N], y[Pack::N];
    read(a + part.start, part, x);
    read_second(b, part, second_length, span, mode, packed, y);
    with_operator(op, [&](auto f) {
#pragma unroll
        for (int i = 0; i < Pack::N; i++) x[i] = f.value(x[i], y[i]);
    });
    write(out + part.start, part, x);
}

// d = dy times the derivative by the first operand, or by the second; `d` has the length of the first.
extern "C" __global__ void __launch_bounds__(256)
binary_grad(const T* a, const T* b, const T* dy, T* d, u64 length, u64 second_length, u64 span, int mode, int op,
            int second, int accumulate, int packed) {
    Part part = part_of(length, packed);
    if (part.count == 0) return;
    float x[Pack::N], y[Pack::N], upstream[Pack::N], old[Pack::N];
    if (op < 2) {
        // The derivatives of a sum and a difference are constants.
#pragma unroll
        for (int i = 0; i < Pack::N; i++) x[i] = y[i] = 0.0f;
    } else {
        read(a + part.start, part, x);
        read_second(b, part, second_length, span, mode, packed, y);
    }
    read(dy + part.start, part, upstream);
    if (accumulate) {
        read(d + part.start, part, old);
    } else {
#pragma unroll
        for (int i = 0; i < Pack::N; i++) old[i] = 0.0f;
    }
    with_operator(op, [&](auto f) {
#pragma unroll
        for (int i = 0; i < Pack::N; i++)
            x[i] = fmaf(upstream[i], second ? f.second(x[i], y[i]) : f.first(x[i], y[i]), old[i]);
    });
    write(d + part.start, part, x);
}

extern "C" __global__ void __launch_bounds__(256)
expand(const T* b, T* out, u64 length, u64 second_length, u64 span, int mode, int packed) {
    Part part = part_of(length, packed);
    if (part.count == 0) return;
    float value[Pack::N];
    read_second(b, part, second_length, span, mode, packed, value);
    write(out + part.start, part, value);
}

// W consecutive elements in one access: a pack, or one element where packs do not fit.
template <int W> __device__ __forceinline__ void read_wide(const T* from, float (&value)[W]) {
    if constexpr (W == 1) {
        value[0] = to_float(*from);
    } else {
        Pack pack = load_pack(from);
#pragma unroll
        for (int i = 0; i < W; i++) value[i] = to_float(pack.at[i]);
    }
}

// parts[c][column]: over the rows of chunk c, the sum of dy times the derivative by the second operand b[column].
// Eight warps take every eighth row of 32 W columns.
template <int W>
__device__ __forceinline__ void column_parts(const T* a, const T* b, const T* dy, float* parts, u64 rows, u64 width,
                                             u64 rows_per_chunk, int op) {
    __shared__ float shared[8][32 * W];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    u64 base = (u64)blockIdx.x * 32 * W;
    u64 column = base + (u64)lane * W;
    u64 begin = (u64)blockIdx.y * rows_per_chunk;
    u64 end = begin + rows_per_chunk < rows ? begin + rows_per_chunk : rows;
    float sum[W], second[W];
#pragma unroll
    for (int i = 0; i < W; i++) sum[i] = second[i] = 0.0f;
    if (column < width) {
        with_operator(op, [&](auto f) {
            if (f.READS_FIRST) read_wide<W>(b + column, second);
#pragma unroll 4
            for (u64 row = begin + warp; row < end; row += 8) {
                float upstream[W], first[W];
                read_wide<W>(dy + row * width + column, upstream);
                if (f.READS_FIRST) read_wide<W>(a + row * width + column, first);
#pragma unroll
                for (int i = 0; i < W; i++)
                    sum[i] = fmaf(upstream[i], f.second(f.READS_FIRST ? first[i] : 0.0f, second[i]), sum[i]);
            }
        });
    }
#pragma unroll
    for (int i = 0; i < W; i++) shared[warp][i * 32 + lane] = sum[i];
    __syncthreads();
    for (int i = threadIdx.x; i < 32 * W; i += 256) {
        float total = 0.0f;
#pragma unroll
        for (int w = 0; w < 8; w++) total += shared[w][i];
        u64 at = base + (u64)(i % 32) * W + i / 32;
        if (at < width) parts[blockIdx.y * width + at] = total;
    }
}

extern "C" __global__ void __launch_bounds__(256)
column_parts_packed(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ dy,
                    float* __restrict__ parts, u64 rows, u64 width, u64 rows_per_chunk, int op) {
    column_parts<Pack::N>(a, b, dy, parts, rows, width, rows_per_chunk, op);
}
extern "C" __global__ void __launch_bounds__(256)
column_parts_single(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ dy,
                    float* __restrict__ parts, u64 rows, u64 width, u64 rows_per_chunk, int op) {
    column_parts<1>(a, b, dy, parts, rows, width, rows_per_chunk, op);
}

// parts[c][segment]: over chunk c of the segment's `span` consecutive elements, the sum of dy times the derivative by
// b[segment]. A warp takes one chunk.
template <int W>
__device__ __forceinline__ void span_parts(const T* a, const T* b, const T* dy, float* parts, u64 segments, u64 span,
                                           u64 chunk, u64 chunks, int op) {
    int lane = threadIdx.x & 31;
    u64 segment, c;
    divide((u64)blockIdx.x * 8 + (threadIdx.x >> 5), chunks, segment, c);
    if (segment >= segments) return;
    u64 end = c * chunk + chunk < span ? c * chunk + chunk : span;
    const T* as = a + segment * span;
    const T* dys = dy + segment * span;
    float sum = 0.0f;
    with_operator(op, [&](auto f) {
        float second = f.READS_FIRST ? to_float(b[segment]) : 0.0f;
#pragma unroll 4
        for (u64 i = c * chunk + lane * W; i < end; i += 32 * W) {
            float upstream[W], first[W];
            read_wide<W>(dys + i, upstream);
            if (f.READS_FIRST) read_wide<W>(as + i, first);
            float group = 0.0f;
#pragma unroll
            for (int j = 0; j < W; j++)
                group = fmaf(upstream[j], f.second(f.READS_FIRST ? first[j] : 0.0f, second), group);
            sum += group;
        }
    });
    sum = warp_sum(sum);
    if (lane == 0) parts[c * segments + segment] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
span_parts_packed(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ dy,
                  float* __restrict__ parts, u64 segments, u64 span, u64 chunk, u64 chunks, int op) {
    span_parts<Pack::N>(a, b, dy, parts, segments, span, chunk, chunks, op);
}
extern "C" __global__ void __launch_bounds__(256)
span_parts_single(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ dy,
                  float* __restrict__ parts, u64 segments, u64 span, u64 chunk, u64 chunks, int op) {
    span_parts<1>(a, b, dy, parts, segments, span, chunk, chunks, op);
}

// out[column] = beta out[column] + the sum of parts[c][column]; without beta the old content is not read.
template <typename U>
__device__ __forceinline__ void sum_parts(const float* parts, u64 chunks, u64 width, float beta, U* out) {
    __shared__ float shared[8][32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    u64 column = (u64)blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (column < width) {
#pragma unroll 8
        for (u64 c = warp; c < chunks; c += 8) sum += parts[c * width + column];
    }
    shared[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < width) {
        float total = 0.0f;
#pragma unroll
        for (int w = 0; w < 8; w++) total += shared[w][lane];
        if (beta != 0.0f) total = fmaf(beta, to_float(out[column]), total);
        out[column] = round_to<U>(total);
    }
}

extern "C" __global__ void __launch_bounds__(256)
sum_parts_to(const float* __restrict__ parts, u64 chunks, u64 width, float beta, T* __restrict__ out) {
    sum_parts(parts, chunks, width, beta, out);
}
extern "C" __global__ void __launch_bounds__(256)
sum_parts_to_f32(const float* __restrict__ parts, u64 chunks, u64 width, float beta, float* __restrict__ out) {
    sum_parts(parts, chunks, width, beta, out);
}
