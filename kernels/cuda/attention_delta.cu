// The first step of attention's gradient, after attention.cuh: for each row and head the logarithm of the softmax's
// denominator in base 2, and delta = out . dout, which is the sum over the keys of p times the gradient of p.

// 16 lanes to a (row, head); a grid's x covers pairs / 16 of them.
extern "C" __global__ void __launch_bounds__(256) attention_delta(
    const T* __restrict__ out, const T* __restrict__ dout, const float* __restrict__ logsumexp, long long pairs,
    int value_dim, int aligned, float2* __restrict__ statistics) {
    long long pair = (long long)blockIdx.x * 16 + threadIdx.x / 16;
    int lane = threadIdx.x % 16;
    float sum = 0.0f;
    if (pair < pairs) {
        out += pair * value_dim;
        dout += pair * value_dim;
        if (aligned) {
            for (int first = lane * Pack::N; first < value_dim; first += 16 * Pack::N) {
                Pack a = load_pack(out + first), b = load_pack(dout + first);
#pragma unroll
                for (int i = 0; i < Pack::N; ++i) sum = fmaf(to_float(a.at[i]), to_float(b.at[i]), sum);
            }
        } else {
            for (int i = lane; i < value_dim; i += 16) sum = fmaf(to_float(out[i]), to_float(dout[i]), sum);
        }
    }
#pragma unroll
    for (int offset = 8; offset > 0; offset >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (pair < pairs && lane == 0) statistics[pair] = make_float2(logsumexp[pair] * LOG2E, sum);
}
