// Put before the attention sources: which rows a block works on, and which keys a query sees.

constexpr float LOG2E = 1.4426950408889634f;

// The rows of one tile of one sequence: `begin` is the sequence's first row, `first` the tile's first position in it.
struct Place {
    int begin, length, first;
};

// A block's sequence and tile. Slots are numbered so that the grid depends on `rows` and `count` alone: sequence s takes
// the slots from starts[s] / size + s on, which are as many as its tiles or one more. `longest_first` turns the order
// within a sequence round: under a causal mask the last queries have the most keys. Length 0 means nothing to do.
__device__ __forceinline__ Place find_tile(const unsigned* starts, int count, int rows, int size, bool longest_first) {
    __shared__ Place found;
    if (threadIdx.x == 0) found = Place{0, 0, 0};
    __syncthreads();
    int slot = (int)blockIdx.x;
    for (int s = threadIdx.x; s < count; s += blockDim.x) {
        int begin = min((int)starts[s], rows), end = min((int)starts[s + 1], rows);
        int low = begin / size + s, high = end / size + s + 1;
        if (slot >= low && slot < high) {
            int length = end - begin, tiles = ceil_div(length, size), tile = slot - low;
            if (tile < tiles) found = Place{begin, length, (longest_first ? tiles - 1 - tile : tile) * size};
        }
    }
    __syncthreads();
    return found;
}

// Query i sees key j if j <= i + right and i <= j + left; a bound that does not hold is 2^30, above every position.
__device__ __forceinline__ bool sees(int query, int key, int left, int right) {
    return key <= query + right && query <= key + left;
}
