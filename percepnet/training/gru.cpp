// A GRU of a few channels over very many rows, forwards and backwards: what PyTorch's spends on memory, for its gates
// of all rows go through it at every step, stays in the first cache here. Rows are taken TILE at a time through all
// hops, and the gates are computed again on the way back instead of being kept.
//
// Notation is PyTorch's: r, z, n and W = [3C, C] in this order.

#include <torch/extension.h>

#include <cmath>
#include <memory>
#include <vector>

namespace {

constexpr int TILE = 16;
// What is summed stays in registers: so many rows by so many vectors of columns. AVX-512 has 32 registers, others 16.
#ifdef __AVX512F__
constexpr int LANES = 16, ROWS = 8;
#else
constexpr int LANES = 8, ROWS = 4;
#endif
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));

template <int N>
constexpr int VECTORS = N / LANES % 2 == 0 ? 2 : N / LANES % 3 == 0 ? 3 : 1;

template <int C>
struct Weights {
  alignas(64) float in[C][3 * C], held[C][3 * C];    // transposed, for the way forwards
  alignas(64) float in_t[3 * C][C], held_t[3 * C][C];  // as they come, for the way back
  alignas(64) float bias[3 * C], bias_held[C];        // of r and z the sums of both biases

  Weights(const at::Tensor& w_in, const at::Tensor& w_held, const at::Tensor& b_in, const at::Tensor& b_held) {
    const float *wi = w_in.data_ptr<float>(), *wh = w_held.data_ptr<float>();
    const float *bi = b_in.data_ptr<float>(), *bh = b_held.data_ptr<float>();
    for (int j = 0; j < 3 * C; ++j) {
      for (int k = 0; k < C; ++k) {
        in[k][j] = in_t[j][k] = wi[j * C + k];
        held[k][j] = held_t[j][k] = wh[j * C + k];
      }
      bias[j] = bi[j] + (j < 2 * C ? bh[j] : 0);
      if (j >= 2 * C) bias_held[j - 2 * C] = bh[j];
    }
  }
};

// ROWS × VECTORS<N> of out += Σ_k of a number of each row, a[k · along_k + row · along_row], times b[k]
template <int K, int V>
inline void add(const float* a, int along_k, int along_row, const float* b, int ldb, float* out, int ldo) {
  Vector sum[ROWS][V];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 3
    for (int n = 0; n < V; ++n) sum[i][n] = *(Vector*)(out + i * ldo + n * LANES);
  for (int k = 0; k < K; ++k) {
    Vector w[V];
#pragma GCC unroll 3
    for (int n = 0; n < V; ++n) w[n] = *(const Vector*)(b + k * ldb + n * LANES);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 3
      for (int n = 0; n < V; ++n) sum[i][n] += a[k * along_k + i * along_row] * w[n];
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 3
    for (int n = 0; n < V; ++n) *(Vector*)(out + i * ldo + n * LANES) = sum[i][n];
}

// out[r][from + n] += Σ_k a[r][k] b[k][n], of the tile's rows and N columns
template <int K, int N, int LDO>
inline void multiply(const float (*a)[K], const float* b, int ldb, float (*out)[LDO], int from) {
  constexpr int V = VECTORS<N>;
  for (int n = 0; n < N; n += V * LANES)
    for (int r = 0; r < TILE; r += ROWS) add<K, V>(a[r], 1, K, b + n, ldb, out[r] + from + n, LDO);
}

// out[j] += Σ_r a[r][j] b[r], over the tile's rows
template <int J, int N>
inline void accumulate(const float (*a)[J], const float (*b)[N], float (*out)[N]) {
  constexpr int V = VECTORS<N>;
  for (int j = 0; j < J; j += ROWS)
    for (int n = 0; n < N; n += V * LANES) add<TILE, V>(a[0] + j, J, 1, b[0] + n, N, out[j] + n, N);
}

template <int C>
struct Tile {
  alignas(64) float x[TILE][C] = {}, h[TILE][C] = {};
  alignas(64) float gates[TILE][3 * C];  // r, z, n
  alignas(64) float held[TILE][C];       // W_hn h + b_hn

  void gather(const float* from, int64_t stride, int rows, float (*to)[C]) {
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < C; ++c) to[r][c] = from[r * stride + c];
  }

  void step(const Weights<C>& w) {
    for (int r = 0; r < TILE; ++r) {
      for (int j = 0; j < 3 * C; ++j) gates[r][j] = w.bias[j];
      for (int c = 0; c < C; ++c) held[r][c] = w.bias_held[c];
    }
    multiply<C, C, 3 * C>(x, w.in[0], 3 * C, gates, 0);
    multiply<C, C, 3 * C>(x, w.in[0] + C, 3 * C, gates, C);
    multiply<C, C, 3 * C>(x, w.in[0] + 2 * C, 3 * C, gates, 2 * C);
    multiply<C, C, 3 * C>(h, w.held[0], 3 * C, gates, 0);
    multiply<C, C, 3 * C>(h, w.held[0] + C, 3 * C, gates, C);
    multiply<C, C, C>(h, w.held[0] + 2 * C, 3 * C, held, 0);
    for (int r = 0; r < TILE; ++r) {
      float* g = gates[r];
      for (int c = 0; c < 2 * C; ++c) g[c] = 1 / (1 + std::exp(-g[c]));
      for (int c = 0; c < C; ++c) g[2 * C + c] = 2 / (1 + std::exp(-2 * (g[2 * C + c] + g[c] * held[r][c]))) - 1;
    }
  }
};

template <int C>
void forward(const at::Tensor& x, const at::Tensor& h0, const Weights<C>& w, at::Tensor& y) {
  const int64_t rows = x.size(0), hops = x.size(1);
  const float *px = x.data_ptr<float>(), *ph = h0.data_ptr<float>();
  float* py = y.data_ptr<float>();
  Tile<C> t;
  for (int64_t row = 0; row < rows; row += TILE) {
    const int count = std::min<int64_t>(TILE, rows - row);
    t.gather(ph + row * C, C, count, t.h);
    for (int64_t hop = 0; hop < hops; ++hop) {
      const int64_t at = (row * hops + hop) * C;
      t.gather(px + at, hops * C, count, t.x);
      t.step(w);
      for (int r = 0; r < count; ++r)
        for (int c = 0; c < C; ++c) {
          const float z = t.gates[r][C + c], n = t.gates[r][2 * C + c];
          py[at + r * hops * C + c] = t.h[r][c] = n + z * (t.h[r][c] - n);
        }
    }
  }
}

template <int C>
void backward(const at::Tensor& x, const at::Tensor& h0, const Weights<C>& w, const at::Tensor& y,
              const at::Tensor& dy, at::Tensor& dx, at::Tensor& dh0, at::Tensor& dw_in,
              at::Tensor& dw_held, at::Tensor& db_in, at::Tensor& db_held) {
  const int64_t rows = x.size(0), hops = x.size(1);
  const float *px = x.data_ptr<float>(), *ph = h0.data_ptr<float>(), *py = y.data_ptr<float>();
  const float* pdy = dy.data_ptr<float>();
  float(*wi)[C] = (float(*)[C])dw_in.data_ptr<float>();
  float(*wh)[C] = (float(*)[C])dw_held.data_ptr<float>();
  float *bi = db_in.data_ptr<float>(), *bh = db_held.data_ptr<float>();
  Tile<C> t;
  alignas(64) float dh[TILE][C], gi[TILE][3 * C], gh[TILE][3 * C], out[TILE][C];
  for (int64_t row = 0; row < rows; row += TILE) {
    const int count = std::min<int64_t>(TILE, rows - row);
    std::fill(dh[0], dh[0] + TILE * C, 0.f);
    std::fill(gi[0], gi[0] + TILE * 3 * C, 0.f);
    std::fill(gh[0], gh[0] + TILE * 3 * C, 0.f);
    for (int64_t hop = hops - 1; hop >= 0; --hop) {
      const int64_t at = (row * hops + hop) * C;
      t.gather(px + at, hops * C, count, t.x);
      if (hop)
        t.gather(py + at - C, hops * C, count, t.h);
      else
        t.gather(ph + row * C, C, count, t.h);
      t.step(w);
      for (int r = 0; r < count; ++r) {
        const float* d = pdy + at + r * hops * C;
        for (int c = 0; c < C; ++c) {
          const float rr = t.gates[r][c], z = t.gates[r][C + c], n = t.gates[r][2 * C + c];
          const float g = dh[r][c] + d[c];
          const float an = g * (1 - z) * (1 - n * n);
          gi[r][c] = gh[r][c] = an * t.held[r][c] * rr * (1 - rr);
          gi[r][C + c] = gh[r][C + c] = g * (t.h[r][c] - n) * z * (1 - z);
          gi[r][2 * C + c] = an;
          gh[r][2 * C + c] = an * rr;
          dh[r][c] = g * z;
          out[r][c] = 0;
        }
      }
      multiply<3 * C, C, C>(gi, w.in_t[0], C, out, 0);
      multiply<3 * C, C, C>(gh, w.held_t[0], C, dh, 0);
      for (int r = 0; r < count; ++r)
        for (int c = 0; c < C; ++c) dx.data_ptr<float>()[at + r * hops * C + c] = out[r][c];
      accumulate<3 * C, C>(gi, t.x, wi);
      accumulate<3 * C, C>(gh, t.h, wh);
      for (int r = 0; r < count; ++r)
        for (int j = 0; j < 3 * C; ++j) bi[j] += gi[r][j], bh[j] += gh[r][j];
    }
    for (int r = 0; r < count; ++r)
      for (int c = 0; c < C; ++c) dh0.data_ptr<float>()[(row + r) * C + c] = dh[r][c];
  }
}

template <typename Work>
void for_channels(int64_t channels, Work work) {
  switch (channels) {
    case 16: return work(std::integral_constant<int, 16>());
    case 32: return work(std::integral_constant<int, 32>());
    case 48: return work(std::integral_constant<int, 48>());
    case 64: return work(std::integral_constant<int, 64>());
    case 96: return work(std::integral_constant<int, 96>());
    case 128: return work(std::integral_constant<int, 128>());
    default: TORCH_CHECK(false, "channels ", channels, ": allowed are 16, 32, 48, 64, 96, 128");
  }
}

}  // namespace

// The same of gru_bf16.cpp, for the channels and the processors that it is made for
bool has_bf16(int64_t channels);
void forward_bf16(const at::Tensor& x, const at::Tensor& h0, const at::Tensor& w_in, const at::Tensor& w_held,
                  const at::Tensor& b_in, const at::Tensor& b_held, at::Tensor& y);
void backward_bf16(const at::Tensor& x, const at::Tensor& h0, const at::Tensor& w_in, const at::Tensor& w_held,
                   const at::Tensor& b_in, const at::Tensor& b_held, const at::Tensor& y, const at::Tensor& dy,
                   std::vector<at::Tensor>& out);

at::Tensor gru_forward(at::Tensor x, at::Tensor h0, at::Tensor w_in, at::Tensor w_held, at::Tensor b_in,
                       at::Tensor b_held, bool bf16) {
  auto y = at::empty_like(x);
  if (bf16) {
    forward_bf16(x, h0, w_in, w_held, b_in, b_held, y);
    return y;
  }
  for_channels(x.size(2), [&](auto c) {
    auto w = std::make_unique<Weights<c>>(w_in, w_held, b_in, b_held);
    forward<c>(x, h0, *w, y);
  });
  return y;
}

std::vector<at::Tensor> gru_backward(at::Tensor x, at::Tensor h0, at::Tensor w_in, at::Tensor w_held, at::Tensor b_in,
                                     at::Tensor b_held, at::Tensor y, at::Tensor dy, bool bf16) {
  std::vector<at::Tensor> out = {at::empty_like(x),     at::empty_like(h0),  at::zeros_like(w_in),
                                 at::zeros_like(w_held), at::zeros_like(b_in), at::zeros_like(b_held)};
  if (bf16) {
    backward_bf16(x, h0, w_in, w_held, b_in, b_held, y, dy, out);
    return out;
  }
  for_channels(x.size(2), [&](auto c) {
    auto w = std::make_unique<Weights<c>>(w_in, w_held, b_in, b_held);
    backward<c>(x, h0, *w, y, dy, out[0], out[1], out[2], out[3], out[4], out[5]);
  });
  return out;
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  typedef pybind11::call_guard<pybind11::gil_scoped_release> Released;
  m.def("forward", &gru_forward, Released());
  m.def("backward", &gru_backward, Released());
  m.def("has_bf16", &has_bf16);
}
