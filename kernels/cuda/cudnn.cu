// What cuDNN wants to know about sequences that lie end to end: where each begins in every operand, and how long it is.
// From `count` + 1 row starts, for a batch that is filled up with empty sequences behind the last row. A width is the
// elements of a row. Offsets are in elements, `batch` + 1 for each operand.
extern "C" __global__ void __launch_bounds__(128)
    cudnn_sequences(const unsigned* __restrict__ starts, int count, int batch, int query_width, int key_width,
                    int value_width, int out_width, int heads, long long* __restrict__ query, long long* __restrict__ key,
                    long long* __restrict__ value, long long* __restrict__ out, long long* __restrict__ log_sum_exp,
                    int* __restrict__ lengths) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i > batch) return;
    long long start = starts[min(i, count)];
    query[i] = start * query_width;
    key[i] = start * key_width;
    value[i] = start * value_width;
    out[i] = start * out_width;
    log_sum_exp[i] = start * heads;
    if (i < batch) lengths[i] = i < count ? (int)(starts[i + 1] - starts[i]) : 0;
}
