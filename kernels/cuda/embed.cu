// Rows of a table by number, rows back to their places, and the gradient of the table.

// One row a block: `out[i] = table[ids[i]]`, in units of 16 or of 2 or 4 bytes. The caller checked the ids; one that is
// outside of the table is read as the last row, so that nothing outside is touched.
template <typename U>
__device__ __forceinline__ void copy_row(const unsigned* ids, const U* table, unsigned vocab, int units, U* out,
                                         bool scatter) {
    unsigned id = ids[blockIdx.x];
    id = id < vocab ? id : vocab - 1;
    const U* from = table + (scatter ? (long long)blockIdx.x : (long long)id) * units;
    U* to = out + (scatter ? (long long)id : (long long)blockIdx.x) * units;
    for (int unit = threadIdx.x; unit < units; unit += blockDim.x) to[unit] = from[unit];
}

extern "C" __global__ void __launch_bounds__(256)
    embed(const unsigned* __restrict__ ids, const uint4* __restrict__ table, unsigned vocab, int units,
          uint4* __restrict__ out) {
    copy_row(ids, table, vocab, units, out, false);
}
extern "C" __global__ void __launch_bounds__(256)
    embed_any(const unsigned* __restrict__ ids, const T* __restrict__ table, unsigned vocab, int units,
              T* __restrict__ out) {
    copy_row(ids, table, vocab, units, out, false);
}
// out[ids[i]] = from[i]; ids differ from each other.
extern "C" __global__ void __launch_bounds__(256)
    scatter_rows(const unsigned* __restrict__ ids, const uint4* __restrict__ from, unsigned rows, int units,
                 uint4* __restrict__ out) {
    copy_row(ids, from, rows, units, out, true);
}
extern "C" __global__ void __launch_bounds__(256)
    scatter_rows_any(const unsigned* __restrict__ ids, const T* __restrict__ from, unsigned rows, int units,
                     T* __restrict__ out) {
    copy_row(ids, from, rows, units, out, true);
}

// A stretch of rows of one id: order[first..last]. `slot` is where the partial sum goes, or NO_SLOT if these are all rows
// of the id.
struct Stretch {
    unsigned first, last, id, slot;
};
constexpr unsigned NO_SLOT = 0xffffffffu;

// Sums the rows of a stretch in their order: blockIdx.x is the stretch, blockIdx.y a tile of columns, V of them a thread.
template <int V>
__device__ __forceinline__ void sum_stretch(const unsigned* order, const Stretch* stretches, const T* dy, int width,
                                            float* partials, float* dtable) {
    int column = (blockIdx.y * blockDim.x + threadIdx.x) * V;
    if (column >= width) return;
    Stretch stretch = stretches[blockIdx.x];
    float sum[V];
#pragma unroll
    for (int i = 0; i < V; i++) sum[i] = 0.0f;
#pragma unroll 4
    for (unsigned at = stretch.first; at < stretch.last; at++) {
        const T* row = dy + (long long)order[at] * width + column;
        if constexpr (V == 1) {
            sum[0] += to_float(row[0]);
        } else {
            Pack pack = load_pack(row);
#pragma unroll
            for (int i = 0; i < V; i++) sum[i] += to_float(pack.at[i]);
        }
    }
    bool whole = stretch.slot == NO_SLOT;
    float* to = (whole ? dtable + (long long)stretch.id * width : partials + (long long)stretch.slot * width) + column;
    if constexpr (V == 1) {
        to[0] = (whole ? to[0] : 0.0f) + sum[0];
    } else {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            PackOf<float> four;
            if (whole) four = load_pack(to + i);
#pragma unroll
            for (int j = 0; j < 4; j++) four.at[j] = (whole ? four.at[j] : 0.0f) + sum[i + j];
            store_pack(to + i, four);
        }
    }
}

extern "C" __global__ void __launch_bounds__(128)
    embed_grad(const unsigned* __restrict__ order, const Stretch* __restrict__ stretches, const T* __restrict__ dy,
               int width, float* partials, float* dtable) {
    sum_stretch<Pack::N>(order, stretches, dy, width, partials, dtable);
}
extern "C" __global__ void __launch_bounds__(128)
    embed_grad_any(const unsigned* __restrict__ order, const Stretch* __restrict__ stretches, const T* __restrict__ dy,
                   int width, float* partials, float* dtable) {
    sum_stretch<1>(order, stretches, dy, width, partials, dtable);
}

// An id of several stretches: adds partials[first..last] in their order. blockIdx.x is the id's place in `splits`,
// blockIdx.y a tile of 32 columns; the 8 warps of the block take every eighth partial, and their sums are added in order.
extern "C" __global__ void __launch_bounds__(256)
    embed_grad_splits(const Stretch* __restrict__ splits, const float* __restrict__ partials, int width,
                      float* dtable) {
    __shared__ float sums[8][32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, column = blockIdx.y * 32 + lane;
    Stretch split = splits[blockIdx.x];
    float sum = 0.0f;
    if (column < width) {
#pragma unroll 4
        for (unsigned at = split.first + warp; at < split.last; at += 8) sum += partials[(long long)at * width + column];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < width) {
        for (int other = 1; other < 8; other++) sum += sums[other][lane];
        dtable[(long long)split.id * width + column] += sum;
    }
}
