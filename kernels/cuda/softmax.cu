// Softmax over the last axis, and its gradient. A row belongs to a warp or to a whole block (`lanes` threads) and is read
// twice; the second time it comes from a cache. V is the numbers per access: Pack::N, or 1.

#define NEGATIVE_INFINITY __int_as_float(0xff800000)

__device__ __forceinline__ float group_sum(float x, int lanes, float* shared) {
    return lanes > 32 ? block_sum(x, shared) : warp_sum(x);
}
__device__ __forceinline__ float group_max(float x, int lanes, float* shared) {
    return lanes > 32 ? block_max(x, shared) : warp_max(x);
}

template <int V> __device__ __forceinline__ void read(const T* from, float (&to)[V]) {
    if constexpr (V == 1) {
        to[0] = to_float(from[0]);
    } else {
        Pack pack = load_pack(from);
#pragma unroll
        for (int i = 0; i < V; i++) to[i] = to_float(pack.at[i]);
    }
}

template <int V> __device__ __forceinline__ void write(T* to, const float (&from)[V]) {
    if constexpr (V == 1) {
        to[0] = from_float(from[0]);
    } else {
        Pack pack;
#pragma unroll
        for (int i = 0; i < V; i++) pack.at[i] = from_float(from[i]);
        store_pack(to, pack);
    }
}

template <int V>
__device__ __forceinline__ void softmax_row(const T* x, int rows, int width, int lanes, T* out) {
    __shared__ float shared[32];
    int lane = threadIdx.x % lanes;
    long long row = (long long)blockIdx.x * (blockDim.x / lanes) + threadIdx.x / lanes;
    int columns = row < rows ? width : 0;
    x += row * width;
    out += row * width;
    // The greatest so far, and the sum of e^(x - greatest).
    float greatest = NEGATIVE_INFINITY, sum = 0.0f;
    for (int column = lane * V; column < columns; column += lanes * V) {
        float value[V];
        read<V>(x + column, value);
        float most = value[0];
#pragma unroll
        for (int i = 1; i < V; i++) most = fmaxf(most, value[i]);
        if (most > greatest) {
            sum *= expf(greatest - most);
            greatest = most;
        }
#pragma unroll
        for (int i = 0; i < V; i++) {
            // -inf adds nothing; less itself, as long as nothing greater was seen, it would be no number.
            if (!(value[i] == NEGATIVE_INFINITY)) sum += expf(value[i] - greatest);
        }
    }
    float most = group_max(greatest, lanes, shared);
    float scale = 1.0f / group_sum(sum * expf(greatest - most), lanes, shared);
    for (int column = lane * V; column < columns; column += lanes * V) {
        float value[V];
        read<V>(x + column, value);
#pragma unroll
        for (int i = 0; i < V; i++) value[i] = expf(value[i] - most) * scale;
        write<V>(out + column, value);
    }
}

// dx = y * (dy - sum(y * dy)), written or added.
template <int V>
__device__ __forceinline__ void softmax_grad_row(const T* y, const T* dy, int rows, int width, int lanes, T* dx,
                                                 int accumulate) {
    __shared__ float shared[32];
    int lane = threadIdx.x % lanes;
    long long row = (long long)blockIdx.x * (blockDim.x / lanes) + threadIdx.x / lanes;
    int columns = row < rows ? width : 0;
    y += row * width;
    dy += row * width;
    dx += row * width;
    float along = 0.0f;
    for (int column = lane * V; column < columns; column += lanes * V) {
        float p[V], g[V];
        read<V>(y + column, p);
        read<V>(dy + column, g);
#pragma unroll
        for (int i = 0; i < V; i++) along += p[i] * g[i];
    }
    along = group_sum(along, lanes, shared);
    for (int column = lane * V; column < columns; column += lanes * V) {
        float p[V], g[V], value[V];
        read<V>(y + column, p);
        read<V>(dy + column, g);
#pragma unroll
        for (int i = 0; i < V; i++) value[i] = p[i] * (g[i] - along);
        if (accumulate) {
            float old[V];
            read<V>(dx + column, old);
#pragma unroll
            for (int i = 0; i < V; i++) value[i] += old[i];
        }
        write<V>(dx + column, value);
    }
}

extern "C" __global__ void __launch_bounds__(256) softmax(const T* x, int rows, int width, int lanes, T* out) {
    softmax_row<Pack::N>(x, rows, width, lanes, out);
}
extern "C" __global__ void __launch_bounds__(256) softmax_any(const T* x, int rows, int width, int lanes, T* out) {
    softmax_row<1>(x, rows, width, lanes, out);
}
extern "C" __global__ void __launch_bounds__(256)
    softmax_grad(const T* y, const T* dy, int rows, int width, int lanes, T* dx, int accumulate) {
    softmax_grad_row<Pack::N>(y, dy, rows, width, lanes, dx, accumulate);
}
extern "C" __global__ void __launch_bounds__(256)
    softmax_grad_any(const T* y, const T* dy, int rows, int width, int lanes, T* dx, int accumulate) {
    softmax_grad_row<1>(y, dy, rows, width, lanes, dx, accumulate);
}
