// Both gradients of a low-rank adapter's second matrix in one reading of the output's gradient dy [rows, n]:
// d_low = scale dy B, with B [n, r], and d_b += scale dy^T low, with low [rows, r]. RANK is r rounded up to 16, 32 or 64.
//
// The work is a list of items, each CHUNK rows by COLUMNS columns of dy, ordered by range of columns, then by rows. A block
// takes an unbroken stretch of the list, so that all blocks read the same amount, and streams it through a ring of tiles.
// Each warp holds B of its columns and sums d_b of them in registers while the range lasts. The sums over columns, for
// d_low, go from the warps through shared memory. What a block has of a range is one partial sum of d_b; a range's is one
// partial sum of d_low; a second kernel adds the partial sums in their order.

constexpr int WARPS = 8, THREADS = 32 * WARPS, CHUNK = 32;
constexpr int WARP_COLUMNS = RANK == 64 ? 32 : 64, COLUMNS = WARPS * WARP_COLUMNS;
constexpr int STAGES = RANK == 16 ? 5 : 4;
// Eight more elements to a row, so that rows begin in other banks.
constexpr int PITCH = COLUMNS + 8, LOW_PITCH = RANK + 8;
constexpr int STAGE = CHUNK * (PITCH + LOW_PITCH);
constexpr int PAIRS = RANK / 16, STEPS = WARP_COLUMNS / 16;
// Sixteen bytes each of what a warp has of an item's d_low.
constexpr int QUADS = CHUNK * RANK / 4;

// The work as the list of items that is above.
struct Items {
    int chunks, ranges, blocks;
    __device__ int count() const { return chunks * ranges; }
    __device__ int first(int block) const { return (int)((long long)block * count() / blocks); }
    // The block that has the item.
    __device__ int block(int item) const { return (int)(((item + 1LL) * blocks - 1) / count()); }
};

__device__ __forceinline__ void wait_for_predecessors() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ unsigned low_halves(unsigned a, unsigned b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ unsigned high_halves(unsigned a, unsigned b) { return __byte_perm(a, b, 0x7632); }

// A warp's rows of B as second operands. A product's columns may be in any order: tile 2p + j has columns
// 16p + 2q + j of B in the places q, so that a thread reads two neighbours at once and ends with four neighbours.
__device__ __forceinline__ void load_b(unsigned (&to)[STEPS][2 * PAIRS][2], const T* b, int column, int n, int r) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < STEPS; ++k)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int p = 0; p < PAIRS; ++p) {
                int row = column + 16 * k + 8 * half + 2 * t, place = 16 * p + 2 * g;
                unsigned first = 0, second = 0;
                // n and r are even.
                if (row < n && place < r) {
                    const T* from = b + (long long)row * r + place;
                    first = *reinterpret_cast<const unsigned*>(from);
                    second = *reinterpret_cast<const unsigned*>(from + r);
                }
                to[k][2 * p][half] = low_halves(first, second);
                to[k][2 * p + 1][half] = high_halves(first, second);
            }
}

// A block's partial sum of d_b, [COLUMNS, r]; `column` is the warp's first.
__device__ __forceinline__ void store_d_b(float* to, const float (&sums)[STEPS][2 * PAIRS][4], int column, int n,
                                          int r) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < STEPS; ++k)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int at = 16 * k + 8 * half + g;
            if (column + at >= n) continue;
#pragma unroll
            for (int tile = 0; tile < 2 * PAIRS; ++tile) {
                if (8 * tile >= r) continue;
                float2 pair = {sums[k][tile][2 * half], sums[k][tile][2 * half + 1]};
                *reinterpret_cast<float2*>(to + (long long)at * r + 8 * tile + 2 * t) = pair;
            }
        }
}

// Where four neighbours of a row of d_low lie among a warp's QUADS: from 32 columns on, odd rows swap groups of 16, so
// that rows share no banks.
__device__ __forceinline__ int quad_of(int row, int pair, int t) {
    return row * (RANK / 4) + (PAIRS > 1 ? pair ^ (row & 1) : pair) * 4 + t;
}

// Adds what the warps have of an item's d_low, in the order of the warps; `to` and `rows` are of the item's first row.
__device__ __forceinline__ void store_d_low(float* to, const float4* parts, int rows, int r) {
#pragma unroll
    for (int step = 0; step < (QUADS + THREADS - 1) / THREADS; ++step) {
        int quad = step * THREADS + (int)threadIdx.x;
        if (QUADS % THREADS != 0 && quad >= QUADS) break;
        int row = quad / (RANK / 4), place = quad % (RANK / 4), pair = place / 4;
        int column = 16 * (PAIRS > 1 ? pair ^ (row & 1) : pair) + place % 4 * 4;
        float4 sum = parts[quad];
#pragma unroll
        for (int warp = 1; warp < WARPS; ++warp) {
            float4 part = parts[warp * QUADS + quad];
            sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
        }
        if (row < rows && column < r) *reinterpret_cast<float4*>(to + (long long)row * r + column) = sum;
    }
}

// d_low_parts [ranges, rows, r]; d_b_parts [blocks + ranges - 1, COLUMNS, r], where block b's part of range c is number
// b + c, or none where d_b is not wanted.
extern "C" __global__ void __launch_bounds__(THREADS)
    adapter_grad(const T* __restrict__ dy, const T* __restrict__ low, const T* __restrict__ b,
                 float* __restrict__ d_low_parts, float* __restrict__ d_b_parts, int rows, int n, int r, int low_stride) {
    extern __shared__ uint4 dynamic_shared[];
    T* ring = reinterpret_cast<T*>(dynamic_shared);
    float4* parts = reinterpret_cast<float4*>(ring + STAGES * STAGE);
    Items items = {ceil_div(rows, CHUNK), ceil_div(n, COLUMNS), (int)gridDim.x};
    int first = items.first(blockIdx.x), last = items.first(blockIdx.x + 1);
    int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

    auto load = [&](int item) {
        unsigned to = shared_address(ring + (item - first) % STAGES * STAGE);
        int row = item % items.chunks * CHUNK, column = item / items.chunks * COLUMNS, left = rows - row;
        bool inside = column + (int)threadIdx.x % (COLUMNS / 8) * 8 < n;
        load_tile<CHUNK, COLUMNS, PITCH, THREADS>(to, dy + (long long)row * n + column, n, inside ? left : 0);
        constexpr int PACKS = RANK / 8;
        int i = threadIdx.x, at = i / PACKS, place = i % PACKS * 8;
        if (i < CHUNK * PACKS) {
            bool exists = at < left && place < r;
            const T* from = low + (long long)(row + (exists ? at : 0)) * low_stride + (exists ? place : 0);
            copy_async(to + 2 * (CHUNK * PITCH + at * LOW_PITCH + place), from, exists);
        }
    };
    auto d_low_of = [&](int item) {
        int row = item % items.chunks * CHUNK;
        float* to = d_low_parts + ((long long)(item / items.chunks) * rows + row) * r;
        store_d_low(to, parts + (item - first) % 2 * WARPS * QUADS, rows - row, r);
    };
    static_assert(CHUNK * RANK / 8 <= THREADS && THREADS % (COLUMNS / 8) == 0, "a thread copies to one column");

    wait_for_predecessors();
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) {
        if (first + stage < last) load(first + stage);
        copy_async_commit();
    }
    int range = first / items.chunks, column = range * COLUMNS + warp * WARP_COLUMNS;
    unsigned right[STEPS][2 * PAIRS][2];
    float d_b[STEPS][2 * PAIRS][4];
    auto store = [&] {
        if (!d_b_parts) return;
        long long row = ((long long)blockIdx.x + range) * COLUMNS + warp * WARP_COLUMNS;
        store_d_b(d_b_parts + row * r, d_b, column, n, r);
    };
    load_b(right, b, column, n, r);
    clear(d_b);

#pragma unroll 1
    for (int item = first; item < last; ++item) {
        // The item is there, and the block is done with the item before it.
        copy_async_wait<STAGES - 2>();
        __syncthreads();
        if (item + STAGES - 1 < last) load(item + STAGES - 1);
        copy_async_commit();
        if (item > first) d_low_of(item - 1);
        if (item / items.chunks != range) {
            store();
            ++range, column += COLUMNS;
            load_b(right, b, column, n, r);
            clear(d_b);
        }
        unsigned tile = shared_address(ring + (item - first) % STAGES * STAGE);
        unsigned along = tile + 2 * warp * WARP_COLUMNS + down_then_right<PITCH>();
        unsigned across = tile + 2 * warp * WARP_COLUMNS + right_then_down<PITCH>();
        unsigned low_at = tile + 2 * CHUNK * PITCH + down_then_right<LOW_PITCH>();
        float4* mine = parts + ((item - first) % 2 * WARPS + warp) * QUADS;
#pragma unroll
        for (int m = 0; m < CHUNK / 16; ++m) {
            unsigned lows[PAIRS][4];
#pragma unroll
            for (int p = 0; p < PAIRS; ++p)
                load_matrices_transposed(lows[p], low_at + 2 * (m * 16 * LOW_PITCH + p * 16));
            float d_low[1][2 * PAIRS][4];
            clear(d_low);
#pragma unroll
            for (int k = 0; k < STEPS; ++k) {
                unsigned left[4], transposed[4];
                load_matrices(left, along + 2 * (m * 16 * PITCH + k * 16));
                load_matrices_transposed(transposed, across + 2 * (m * 16 * PITCH + k * 16));
#pragma unroll
                for (int tile = 0; tile < 2 * PAIRS; ++tile)
                    multiply_add(d_low[0][tile], left, right[k][tile][0], right[k][tile][1]);
#pragma unroll
                for (int p = 0; p < PAIRS; ++p) {
                    multiply_add(d_b[k][2 * p], transposed, lows[p][0], lows[p][1]);
                    multiply_add(d_b[k][2 * p + 1], transposed, lows[p][2], lows[p][3]);
                }
            }
#pragma unroll
            for (int p = 0; p < PAIRS; ++p)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    mine[quad_of(m * 16 + half * 8 + g, p, t)] =
                        make_float4(d_low[0][2 * p][2 * half], d_low[0][2 * p + 1][2 * half],
                                    d_low[0][2 * p][2 * half + 1], d_low[0][2 * p + 1][2 * half + 1]);
        }
    }
    launch_dependents();
    __syncthreads();
    d_low_of(last - 1);
    store();
}

// The first `d_low_blocks` blocks add d_low's partial sums, four neighbours to a thread. The others add d_b's: as there are
// many of few, a block takes 32 times four neighbours, its warps every eighth of the partial sums.
extern "C" __global__ void __launch_bounds__(THREADS)
    adapter_grad_sum(const float* __restrict__ d_low_parts, const float* __restrict__ d_b_parts, int rows, int n, int r,
                     int blocks, int d_low_blocks, float scale, T* __restrict__ d_low, int d_low_stride,
                     float* __restrict__ d_b) {
    __shared__ float4 sums[WARPS][32];
    wait_for_predecessors();
    Items items = {ceil_div(rows, CHUNK), ceil_div(n, COLUMNS), blocks};
    int row_quads = r / 4;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    auto add = [&](float4 part) { sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w; };
    if ((int)blockIdx.x < d_low_blocks) {
        long long quad = (long long)blockIdx.x * THREADS + threadIdx.x, quads = (long long)rows * row_quads;
        if (quad >= quads) return;
        const float4* from = reinterpret_cast<const float4*>(d_low_parts) + quad;
#pragma unroll 4
        for (int range = 0; range < items.ranges; ++range) add(from[range * quads]);
        T* to = d_low + quad / row_quads * d_low_stride + quad % row_quads * 4;
        *reinterpret_cast<uint2*>(to) =
            make_uint2(round_pair(scale * sum.x, scale * sum.y), round_pair(scale * sum.z, scale * sum.w));
        return;
    }
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    long long quad = (long long)((int)blockIdx.x - d_low_blocks) * 32 + lane, quads = (long long)n * row_quads;
    if (quad < quads) {
        long long column = quad / row_quads;
        int range = (int)(column / COLUMNS);
        int first = items.block(range * items.chunks), last = items.block((range + 1) * items.chunks - 1);
        const float4* from = reinterpret_cast<const float4*>(d_b_parts) + quad % row_quads +
                             (column % COLUMNS + (long long)range * COLUMNS) * row_quads;
#pragma unroll 4
        for (int block = first + warp; block <= last; block += WARPS) add(from[(long long)block * COLUMNS * row_quads]);
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || quad >= quads) return;
#pragma unroll
    for (int other = 1; other < WARPS; ++other) add(sums[other][lane]);
    // Gradients lie anywhere in their arena.
    float* to = d_b + 4 * quad;
    float four[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] += scale * four[i];
}
