// Attention for every element type, width, mask and soft cap, in f32 arithmetic: tiles of 64 rows by 64 columns go
// through shared memory, 256 threads hold 4 x 4 scores each (Dao et al., arXiv:2205.14135). Memory is linear in the
// rows. Every block owns what it writes, so the order of every sum is fixed.
//
// Forward and backward are one scheme. A block owns 64 rows (queries, or keys for dk and dv) and up to 128 columns of
// their result. It passes over tiles of the other side, makes a 64 x 64 tile of weights from dot products, and adds
// weights x operand to its result. Wider results are divided among blocks (blockIdx.z), each making the weights again.

constexpr int TILE = 64;      // rows and columns of a tile of weights
constexpr int DEPTH = 32;     // of a dot product in shared memory at a time
constexpr int PITCH = 68;     // of a transposed tile: 16-byte aligned, and rows begin in different banks
constexpr int SLICE = 128;    // columns of the result in one block
constexpr int THREADS = 256;

struct alignas(16) SharedTiles {
    // Two transposed operands [DEPTH][PITCH] of the dot products, or DEPTH rows of the operand that the weights multiply.
    float operands[2 * DEPTH * PITCH];
    // [column][row]
    float weights[TILE * PITCH];
    float logsumexp[TILE], delta[TILE];
};

// Elements [first, first + DEPTH) of up to 64 rows, transposed, zero outside.
__device__ __forceinline__ void load_transposed(float* to, const T* from, long long stride, int rows, int first, int width) {
    int column = threadIdx.x % DEPTH;
#pragma unroll
    for (int row = threadIdx.x / DEPTH; row < TILE; row += THREADS / DEPTH) {
        bool inside = row < rows && first + column < width;
        to[column * PITCH + row] = inside ? to_float(from[row * stride + first + column]) : 0.0f;
    }
}

// dots[r][c] = a[4 y + r] . b[4 x + c], for thread (x, y) of 16 x 16.
__device__ __forceinline__ void dot_products(
    float (&dots)[4][4], const T* a, long long a_stride, int a_rows, const T* b, long long b_stride, int b_rows, int width,
    SharedTiles& shared) {
    int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c) dots[r][c] = 0.0f;
    float *left = shared.operands, *right = shared.operands + DEPTH * PITCH;
    for (int first = 0; first < width; first += DEPTH) {
        __syncthreads();
        load_transposed(left, a, a_stride, a_rows, first, width);
        load_transposed(right, b, b_stride, b_rows, first, width);
        __syncthreads();
#pragma unroll 4
        for (int k = 0; k < DEPTH; ++k) {
            float4 l = *reinterpret_cast<const float4*>(left + k * PITCH + 4 * y);
            float4 r = *reinterpret_cast<const float4*>(right + k * PITCH + 4 * x);
            float ls[4] = {l.x, l.y, l.z, l.w}, rs[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) dots[i][j] = fmaf(ls[i], rs[j], dots[i][j]);
        }
    }
}

// Makes a thread's weights known to the block.
__device__ __forceinline__ void store_weights(const float (&weights)[4][4], SharedTiles& shared) {
    int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
    for (int c = 0; c < 4; ++c)
        *reinterpret_cast<float4*>(shared.weights + (4 * x + c) * PITCH + 4 * y) =
            make_float4(weights[0][c], weights[1][c], weights[2][c], weights[3][c]);
}

// sums[r][h][c] += sum over the tile's columns of weights[4 y + r] times operand[., 64 h + 4 x + c]. `operand` begins at
// the block's slice, which is `width` wide.
__device__ __forceinline__ void add_product(
    float (&sums)[4][2][4], const T* operand, long long stride, int rows, int width, SharedTiles& shared) {
    int x = threadIdx.x % 16, y = threadIdx.x / 16;
    for (int first = 0; first < rows; first += DEPTH) {
        __syncthreads();
        for (int i = threadIdx.x; i < DEPTH * SLICE; i += THREADS) {
            int row = i / SLICE, column = i % SLICE;
            bool inside = first + row < rows && column < width;
            shared.operands[i] = inside ? to_float(operand[(first + row) * stride + column]) : 0.0f;
        }
        __syncthreads();
#pragma unroll 4
        for (int k = 0; k < DEPTH; ++k) {
            float4 w = *reinterpret_cast<const float4*>(shared.weights + (first + k) * PITCH + 4 * y);
            float ws[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                if (h * 64 >= width) continue;
                float4 o = *reinterpret_cast<const float4*>(shared.operands + k * SLICE + h * 64 + 4 * x);
                float os[4] = {o.x, o.y, o.z, o.w};
#pragma unroll
                for (int r = 0; r < 4; ++r)
#pragma unroll
                    for (int c = 0; c < 4; ++c) sums[r][h][c] = fmaf(ws[r], os[c], sums[r][h][c]);
            }
        }
    }
}

__device__ __forceinline__ void clear(float (&sums)[4][2][4]) {
#pragma unroll
    for (int i = 0; i < 32; ++i) sums[i / 8][i / 4 % 2][i % 4] = 0.0f;
}

// Writes the block's result: row r of the thread times factor[r]. `to` is the slice of the tile's first row.
__device__ __forceinline__ void store_result(
    const float (&sums)[4][2][4], const float (&factor)[4], T* to, long long stride, int rows, int width) {
    int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        if (4 * y + r >= rows) continue;
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                int column = h * 64 + 4 * x + c;
                if (column < width) to[(4 * y + r) * stride + column] = from_float(sums[r][h][c] * factor[r]);
            }
    }
}
