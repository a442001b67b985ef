// Put before every CUDA source: element types, 16-byte packs and reductions. No header is needed, so NVRTC alone
// compiles it. `ELEMENT` says what activations are: 0 float, 1 bf16, 2 f16.

struct bf16 {
    unsigned short bits;
};
struct f16 {
    unsigned short bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ __forceinline__ float to_float(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

// Rounds to nearest even.
template <typename U> __device__ __forceinline__ U round_to(float x);
template <> __device__ __forceinline__ float round_to<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 round_to<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <> __device__ __forceinline__ f16 round_to<f16>(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

#if ELEMENT == 0
typedef float T;
#elif ELEMENT == 1
typedef bf16 T;
#else
typedef f16 T;
#endif

__device__ __forceinline__ T from_float(float x) { return round_to<T>(x); }

// 16 bytes of U. Its address is a multiple of 16.
template <typename U> struct alignas(16) PackOf {
    static constexpr int N = 16 / sizeof(U);
    U at[N];
};
typedef PackOf<T> Pack;

template <typename U> __device__ __forceinline__ PackOf<U> load_pack(const U* from) {
    PackOf<U> pack;
    *reinterpret_cast<uint4*>(&pack) = *reinterpret_cast<const uint4*>(from);
    return pack;
}
template <typename U> __device__ __forceinline__ void store_pack(U* to, const PackOf<U>& pack) {
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&pack);
}

__device__ __forceinline__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
__device__ __forceinline__ constexpr long long ceil_div(long long a, long long b) { return (a + b - 1) / b; }

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}

// Over all threads of a block whose size is a multiple of 32; every thread gets the result. `shared` holds 32 floats
// and may be used again at once.
__device__ __forceinline__ float block_sum(float x, float* shared) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    return warp_sum(lane < warps ? shared[lane] : 0.0f);
}
__device__ __forceinline__ float block_max(float x, float* shared) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    return warp_max(lane < warps ? shared[lane] : __int_as_float(0xff800000));
}
