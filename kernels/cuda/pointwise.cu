// Elementwise kernels: functions of one number, gated units, in-place sums, casts, dropout.
//
// Every thread takes one part: as many consecutive elements as 16 bytes of T hold. A part is read whole before it is
// written, so an output may lie exactly on an input. `packed` says that addresses and lengths allow 16-byte accesses.

typedef unsigned long long u64;

// The part of this thread: elements `start..start + count` of a row.
struct Part {
    u64 row;
    u64 start;
    int count;
    bool packed;
};

// Rows of `width` elements in parts of M, the last of a row shorter.
template <int M> __device__ __forceinline__ Part part_of(unsigned rows, u64 width, int packed) {
    u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    Part part;
    part.row = 0;
    u64 column = index;
    if (rows > 1) {
        // The wrapper keeps the number of parts below 2^32 here.
        unsigned parts = (unsigned)((width + M - 1) / M);
        part.row = (unsigned)index / parts;
        column = (unsigned)index % parts;
    }
    part.start = column * M;
    bool inside = part.row < rows && part.start < width;
    u64 left = inside ? width - part.start : 0;
    part.count = left < (u64)M ? (int)left : M;
    part.packed = packed && part.count == M;
    return part;
}

template <int M, typename U>
__device__ __forceinline__ void read(const U* from, const Part& part, float (&value)[M]) {
    constexpr int N = PackOf<U>::N;
    if (part.packed) {
#pragma unroll
        for (int i = 0; i < M; i += N) {
            PackOf<U> pack = load_pack(from + i);
#pragma unroll
            for (int j = 0; j < N; j++) value[i + j] = to_float(pack.at[j]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < M; i++) value[i] = i < part.count ? to_float(from[i]) : 0.0f;
    }
}

template <int M, typename U>
__device__ __forceinline__ void write(U* to, const Part& part, const float (&value)[M]) {
    constexpr int N = PackOf<U>::N;
    if (part.packed) {
#pragma unroll
        for (int i = 0; i < M; i += N) {
            PackOf<U> pack;
#pragma unroll
            for (int j = 0; j < N; j++) pack.at[j] = round_to<U>(value[i + j]);
            store_pack(to + i, pack);
        }
    } else {
#pragma unroll
        for (int i = 0; i < M; i++)
            if (i < part.count) to[i] = round_to<U>(value[i]);
    }
}

// Where results are rounded to 16 bits, the special function unit's exponential and reciprocal are exact enough.
#if ELEMENT == 0
__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ float quotient(float a, float b) { return a / b; }
#else
__device__ __forceinline__ float exponential(float x) { return __expf(x); }
__device__ __forceinline__ float quotient(float a, float b) { return __fdividef(a, b); }
#endif

__device__ __forceinline__ float sigmoid(float x) { return quotient(1.0f, 1.0f + exponential(-x)); }
// s(x) s(-x), without the cancellation of 1 - s.
__device__ __forceinline__ float sigmoid_slope(float x) {
    float e = exponential(-fabsf(x));
    float s = quotient(1.0f, 1.0f + e);
    return e * s * s;
}
__device__ __forceinline__ float normal_cdf(float x) { return 0.5f * (1.0f + erff(x * 0.70710678f)); }

struct Silu {
    static __device__ __forceinline__ float value(float x) { return x * sigmoid(x); }
    static __device__ __forceinline__ float slope(float x) {
        float s = sigmoid(x);
        return s * fmaf(x, 1.0f - s, 1.0f);
    }
};
struct Gelu {
    static __device__ __forceinline__ float value(float x) { return x * normal_cdf(x); }
    static __device__ __forceinline__ float slope(float x) {
        return fmaf(x, exponential(-0.5f * x * x) * 0.3989423f, normal_cdf(x));
    }
};
// (1 + tanh(u)) / 2 is sigmoid(2u).
struct GeluTanh {
    static __device__ __forceinline__ float inner(float x) { return 1.595769f * x * fmaf(0.044715f, x * x, 1.0f); }
    static __device__ __forceinline__ float value(float x) { return x * sigmoid(inner(x)); }
    static __device__ __forceinline__ float slope(float x) {
        float u = inner(x);
        return fmaf(x * 1.595769f * fmaf(0.134145f, x * x, 1.0f), sigmoid_slope(u), sigmoid(u));
    }
};
struct Relu {
    static __device__ __forceinline__ float value(float x) { return x < 0.0f ? 0.0f : x; }
    static __device__ __forceinline__ float slope(float x) { return x > 0.0f ? 1.0f : 0.0f; }
};
struct Sigmoid {
    static __device__ __forceinline__ float value(float x) { return sigmoid(x); }
    static __device__ __forceinline__ float slope(float x) { return sigmoid_slope(x); }
};
struct Tanh {
    static __device__ __forceinline__ float value(float x) { return tanhf(x); }
    static __device__ __forceinline__ float slope(float x) {
        float t = tanhf(x);
        return 1.0f - t * t;
    }
};
struct Exp {
    static __device__ __forceinline__ float value(float x) { return exponential(x); }
    static __device__ __forceinline__ float slope(float x) { return exponential(x); }
};
struct Square {
    static __device__ __forceinline__ float value(float x) { return x * x; }
    static __device__ __forceinline__ float slope(float x) { return 2.0f * x; }
};
struct Rsqrt {
    static __device__ __forceinline__ float value(float x) { return 1.0f / sqrtf(x); }
    static __device__ __forceinline__ float slope(float x) {
        float r = 1.0f / sqrtf(x);
        return -0.5f * r * r * r;
    }
};
struct Sqrt {
    static __device__ __forceinline__ float value(float x) { return sqrtf(x); }
    static __device__ __forceinline__ float slope(float x) { return 0.5f / sqrtf(x); }
};
struct Neg {
    static __device__ __forceinline__ float value(float x) { return -x; }
    static __device__ __forceinline__ float slope(float) { return -1.0f; }
};
struct Log {
    static __device__ __forceinline__ float value(float x) { return logf(x); }
    static __device__ __forceinline__ float slope(float x) { return 1.0f / x; }
};
struct Softplus {
    static __device__ __forceinline__ float value(float x) {
        return (x < 0.0f ? 0.0f : x) + log1pf(exponential(-fabsf(x)));
    }
    static __device__ __forceinline__ float slope(float x) { return sigmoid(x); }
};
struct Relu2 {
    static __device__ __forceinline__ float value(float x) {
        float r = x < 0.0f ? 0.0f : x;
        return r * r;
    }
    static __device__ __forceinline__ float slope(float x) { return x > 0.0f ? 2.0f * x : 0.0f; }
};

// Numbered as `Activation` declares them. The choice is made once for a part, not for each element.
template <typename Body> __device__ __forceinline__ void with_function(int activation, Body body) {
    switch (activation) {
        case 0: return body(Silu());
        case 1: return body(Gelu());
        case 2: return body(GeluTanh());
        case 3: return body(Relu());
        case 4: return body(Sigmoid());
        case 5: return body(Tanh());
        case 6: return body(Exp());
        case 7: return body(Square());
        case 8: return body(Rsqrt());
        case 9: return body(Sqrt());
        case 10: return body(Neg());
        case 11: return body(Log());
        case 12: return body(Softplus());
        case 13: return body(Relu2());
    }
}

extern "C" __global__ void __launch_bounds__(256)
unary(const T* x, T* out, u64 length, int activation, int packed) {
    Part part = part_of<Pack::N>(1, length, packed);
    if (part.count == 0) return;
    float value[Pack::N];
    read(x + part.start, part, value);
    with_function(activation, [&](auto f) {
#pragma unroll
        for (int i = 0; i < Pack::N; i++) value[i] = f.value(value[i]);
    });
    write(out + part.start, part, value);
}

extern "C" __global__ void __launch_bounds__(256)
unary_grad(const T* x, const T* dy, T* dx, u64 length, int activation, int accumulate, int packed) {
    Part part = part_of<Pack::N>(1, length, packed);
    if (part.count == 0) return;
    float value[Pack::N], upstream[Pack::N], old[Pack::N];
    read(x + part.start, part, value);
    read(dy + part.start, part, upstream);
    if (accumulate) {
        read(dx + part.start, part, old);
    } else {
#pragma unroll
        for (int i = 0; i < Pack::N; i++) old[i] = 0.0f;
    }
    with_function(activation, [&](auto f) {
#pragma unroll
        for (int i = 0; i < Pack::N; i++) value[i] = fmaf(upstream[i], f.slope(value[i]), old[i]);
    });
    write(dx + part.start, part, value);
}

// Rows of gate and up are `stride` elements apart, rows of out are end to end.
extern "C" __global__ void __launch_bounds__(256)
glu(const T* gate, const T* up, T* out, unsigned rows, u64 width, u64 stride, int activation, int packed) {
    Part part = part_of<Pack::N>(rows, width, packed);
    if (part.count == 0) return;
    u64 apart = part.row * stride + part.start;
    float g[Pack::N], u[Pack::N];
    read(gate + apart, part, g);
    read(up + apart, part, u);
    with_function(activation, [&](auto f) {
#pragma unroll
        for (int i = 0; i < Pack::N; i++) g[i] = f.value(g[i]) * u[i];
    });
    write(out + part.row * width + part.start, part, g);
}

// Rows of dgate and dup are `stride` apart too.
extern "C" __global__ void __launch_bounds__(256)
glu_grad(const T* gate, const T* up, const T* dy, T* dgate, T* dup, unsigned rows, u64 width, u64 stride,
         int activation, int packed) {
    Part part = part_of<Pack::N>(rows, width, packed);
    if (part.count == 0) return;
    u64 apart = part.row * stride + part.start;
    float g[Pack::N], u[Pack::N], upstream[Pack::N];
    read(gate + apart, part, g);
    read(up + apart, part, u);
    read(dy + part.row * width + part.start, part, upstream);
    with_function(activation, [&](auto f) {
#pragma unroll
        for (int i = 0; i < Pack::N; i++) {
            float x = g[i];
            g[i] = upstream[i] * u[i] * f.slope(x);
            u[i] = upstream[i] * f.value(x);
        }
    });
    write(dgate + apart, part, g);
    write(dup + apart, part, u);
}

// glu and glu_grad in one pass over gate and up; all end to end.
extern "C" __global__ void __launch_bounds__(256)
glu_grad_output(const T* gate, const T* up, const T* dy, T* dgate, T* dup, T* out, u64 length, int activation,
                int packed) {
    Part part = part_of<Pack::N>(1, length, packed);
    if (part.count == 0) return;
    float g[Pack::N], u[Pack::N], upstream[Pack::N];
    read(gate + part.start, part, g);
    read(up + part.start, part, u);
    read(dy + part.start, part, upstream);
    with_function(activation, [&](auto f) {
#pragma unroll
        for (int i = 0; i < Pack::N; i++) {
            float x = g[i], value = f.value(x), y = value * u[i];
            g[i] = upstream[i] * u[i] * f.slope(x);
            u[i] = upstream[i] * value;
            upstream[i] = y;
        }
    });
    write(dgate + part.start, part, g);
    write(dup + part.start, part, u);
    write(out + part.start, part, upstream);
}

// y += alpha x for rows of y that are `stride` apart and rows of x end to end.
template <typename Y>
__device__ __forceinline__ void add_scaled(Y* y, float alpha, const T* x, unsigned rows, u64 width, u64 stride,
                                           int packed) {
    Part part = part_of<Pack::N>(rows, width, packed);
    if (part.count == 0) return;
    Y* target = y + part.row * stride + part.start;
    float sum[Pack::N], more[Pack::N];
    read(target, part, sum);
    read(x + part.row * width + part.start, part, more);
#pragma unroll
    for (int i = 0; i < Pack::N; i++) sum[i] = fmaf(alpha, more[i], sum[i]);
    write(target, part, sum);
}

extern "C" __global__ void __launch_bounds__(256)
scale_add(T* y, float alpha, const T* x, unsigned rows, u64 width, u64 stride, int packed) {
    add_scaled(y, alpha, x, rows, width, stride, packed);
}

extern "C" __global__ void __launch_bounds__(256)
scale_add_f32(float* y, float alpha, const T* x, unsigned rows, u64 width, u64 stride, int packed) {
    add_scaled(y, alpha, x, rows, width, stride, packed);
}

extern "C" __global__ void __launch_bounds__(256) scale(T* x, float factor, u64 length, int packed) {
    Part part = part_of<Pack::N>(1, length, packed);
    if (part.count == 0) return;
    float value[Pack::N];
    read(x + part.start, part, value);
#pragma unroll
    for (int i = 0; i < Pack::N; i++) value[i] *= factor;
    write(x + part.start, part, value);
}

// Eight elements, so that both sides of a cast move whole packs.
template <typename U> __device__ __forceinline__ void cast_from(const U* from, T* to, u64 length, int packed) {
    Part part = part_of<8>(1, length, packed);
    if (part.count == 0) return;
    float value[8];
    read(from + part.start, part, value);
    write(to + part.start, part, value);
}

extern "C" __global__ void __launch_bounds__(256) cast_from_f32(const float* from, T* to, u64 length, int packed) {
    cast_from(from, to, length, packed);
}
extern "C" __global__ void __launch_bounds__(256) cast_from_bf16(const bf16* from, T* to, u64 length, int packed) {
    cast_from(from, to, length, packed);
}
extern "C" __global__ void __launch_bounds__(256) cast_from_f16(const f16* from, T* to, u64 length, int packed) {
    cast_from(from, to, length, packed);
}

// The finaliser of splitmix64 (Steele, Lea and Flood, 2014).
__device__ __forceinline__ u64 mix64(u64 z) {
    z += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

// A 32-bit mixer of low bias (C. Wellons' hash prospector).
__device__ __forceinline__ unsigned mix32(unsigned x) {
    x = (x ^ x >> 16) * 0x21f0aaadu;
    x = (x ^ x >> 15) * 0xd35a2d97u;
    return x ^ x >> 15;
}

// Elements with one 32-bit stream, a multiple of what a block takes.
#define STREAM_ELEMENTS 16384

extern "C" __global__ void __launch_bounds__(256)
dropout(const T* x, T* out, u64 length, unsigned threshold, float factor, const u64* key, u64 salt, int packed) {
    __shared__ u64 stream;
    Part part = part_of<Pack::N>(1, length, packed);
    if (threadIdx.x == 0) stream = mix64(*key ^ mix64(salt) ^ mix64(part.start / STREAM_ELEMENTS + 1));
    __syncthreads();
    if (part.count == 0) return;
    unsigned first = (unsigned)stream, second = (unsigned)(stream >> 32);
    unsigned index = (unsigned)(part.start % STREAM_ELEMENTS);
    float value[Pack::N];
    read(x + part.start, part, value);
#pragma unroll
    for (int i = 0; i < Pack::N; i++) {
        unsigned random = mix32(mix32((index + i) ^ first) + second);
        value[i] = random >= threshold ? value[i] * factor : 0.0f;
    }
    write(out + part.start, part, value);
}
