// gru.cpp's GRU in bfloat16 on the matrix unit of newer Intel processors (AMX), for channels that are multiples of 32.
//
// Only what is multiplied is rounded, and the weights' gradients of 32 rows: sums, gates and states stay float. Three to four times as fast as AVX-512.

#include <torch/extension.h>

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <memory>
#include <vector>

namespace {

constexpr int LANES = 16;
constexpr int ROWS = 32;   // two tiles of 16
constexpr int DEPTH = 32;  // of a product
typedef at::BFloat16 Half;

// Of what a tile is loaded from, GCC does not know that it is read
inline void settle() { asm volatile("" ::: "memory"); }

// Linux has to be asked for it, once in a process
bool allowed() {
  static const bool granted = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tiles */) == 0;
  return granted;
}

void configure() {
  struct alignas(64) {
    uint8_t palette = 1, start = 0, none[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  settle();
  _tile_loadconfig(&config);
}

inline void round(const float* from, Half* to, int count) {
  for (int i = 0; i < count; i += LANES)
    _mm256_storeu_si256((__m256i*)(to + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i)));
}

// A matrix [K][N] as the unit takes it: [K / 32][N / 16] tiles, two rows side by side
template <int K, int N>
struct Matrix {
  alignas(64) Half tiles[K / DEPTH][N / 16][16][32];

  template <typename At>
  explicit Matrix(At at) {
    for (int k = 0; k < K; ++k)
      for (int n = 0; n < N; ++n) tiles[k / DEPTH][n / 16][k % DEPTH / 2][n % 16 * 2 + k % 2] = at(k, n);
  }
};

// Adds rows · matrix, for 32 rows of bfloat16 with LDA numbers each, to the sums of 32 columns in tiles 0 to 3
template <int LDA, int K, int N>
inline void add(const Half* a, const Matrix<K, N>& b, int column, int first = 0, int last = K / DEPTH) {
  settle();
  for (int k = first; k < last; ++k) {
    _tile_loadd(4, a + (k - first) * DEPTH, 2 * LDA);
    _tile_loadd(5, a + 16 * LDA + (k - first) * DEPTH, 2 * LDA);
    _tile_loadd(6, b.tiles[k][column / 16], 64);
    _tile_loadd(7, b.tiles[k][column / 16 + 1], 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

inline void zero() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

inline void load(const float* from, int stride) {
  settle();
  _tile_loadd(0, from, 4 * stride);
  _tile_loadd(1, from + 16, 4 * stride);
  _tile_loadd(2, from + 16 * stride, 4 * stride);
  _tile_loadd(3, from + 16 * stride + 16, 4 * stride);
}

inline void store(float* to, int stride) {
  _tile_stored(0, to, 4 * stride);
  _tile_stored(1, to + 16, 4 * stride);
  _tile_stored(2, to + 16 * stride, 4 * stride);
  _tile_stored(3, to + 16 * stride + 16, 4 * stride);
}

template <int C>
struct Weights {
  Matrix<C, 3 * C> in, held;
  Matrix<3 * C, C> in_t, held_t;
  alignas(64) float bias[3 * C], bias_held[C];  // of r and z the sums of both biases

  Weights(const at::Tensor& w_in, const at::Tensor& w_held, const at::Tensor& b_in, const at::Tensor& b_held)
      : in([p = w_in.data_ptr<float>()](int k, int n) { return p[n * C + k]; }),
        held([p = w_held.data_ptr<float>()](int k, int n) { return p[n * C + k]; }),
        in_t([p = w_in.data_ptr<float>()](int k, int n) { return p[k * C + n]; }),
        held_t([p = w_held.data_ptr<float>()](int k, int n) { return p[k * C + n]; }) {
    const float *bi = b_in.data_ptr<float>(), *bh = b_held.data_ptr<float>();
    for (int j = 0; j < 3 * C; ++j) bias[j] = bi[j] + (j < 2 * C ? bh[j] : 0);
    for (int c = 0; c < C; ++c) bias_held[c] = bh[2 * C + c];
  }
};

template <int C>
struct Tile {
  alignas(64) float gates[ROWS][3 * C];  // r, z, n
  alignas(64) float held[ROWS][C];       // W_hn h + b_hn

  // Of rows [ROWS][2C]: what comes in, and the state
  void step(const Weights<C>& w, const Half* heard) {
    for (int n = 0; n < 2 * C; n += 32) {
      zero();
      add<2 * C>(heard, w.in, n);
      add<2 * C>(heard + C, w.held, n);
      store(gates[0] + n, 3 * C);
    }
    for (int n = 0; n < C; n += 32) {
      zero();
      add<2 * C>(heard, w.in, 2 * C + n);
      store(gates[0] + 2 * C + n, 3 * C);
      zero();
      add<2 * C>(heard + C, w.held, 2 * C + n);
      store(held[0] + n, C);
    }
    for (int r = 0; r < ROWS; ++r) {
      float *g = gates[r], *h = held[r];
      for (int c = 0; c < 2 * C; ++c) g[c] = 1 / (1 + std::exp(-g[c] - w.bias[c]));
      for (int c = 0; c < C; ++c) {
        h[c] += w.bias_held[c];
        g[2 * C + c] = 2 / (1 + std::exp(-2 * (g[2 * C + c] + w.bias[2 * C + c] + g[c] * h[c]))) - 1;
      }
    }
  }
};

template <int C>
void forward(const at::Tensor& x, const at::Tensor& h0, const Weights<C>& w, at::Tensor& y) {
  const int64_t rows = x.size(0), hops = x.size(1);
  const float *px = x.data_ptr<float>(), *ph = h0.data_ptr<float>();
  float* py = y.data_ptr<float>();
  Tile<C> t;
  alignas(64) Half heard[ROWS][2 * C] = {};
  alignas(64) float h[ROWS][C] = {};
  configure();
  for (int64_t row = 0; row < rows; row += ROWS) {
    const int count = std::min<int64_t>(ROWS, rows - row);
    std::copy(ph + row * C, ph + (row + count) * C, h[0]);
    for (int64_t hop = 0; hop < hops; ++hop) {
      const int64_t at = (row * hops + hop) * C;
      for (int r = 0; r < count; ++r) {
        round(px + at + r * hops * C, heard[r], C);
        round(h[r], heard[r] + C, C);
      }
      t.step(w, heard[0]);
      for (int r = 0; r < count; ++r)
        for (int c = 0; c < C; ++c) {
          const float z = t.gates[r][C + c], n = t.gates[r][2 * C + c];
          py[at + r * hops * C + c] = h[r][c] = n + z * (h[r][c] - n);
        }
    }
  }
  _tile_release();
}

template <int C>
void backward(const at::Tensor& x, const at::Tensor& h0, const Weights<C>& w, const at::Tensor& y,
                   const at::Tensor& dy, at::Tensor& dx, at::Tensor& dh0, at::Tensor& dw_in, at::Tensor& dw_held,
                   at::Tensor& db_in, at::Tensor& db_held) {
  const int64_t rows = x.size(0), hops = x.size(1);
  const float *px = x.data_ptr<float>(), *ph = h0.data_ptr<float>(), *py = y.data_ptr<float>();
  const float* pdy = dy.data_ptr<float>();
  float* pdx = dx.data_ptr<float>();
  float *bi = db_in.data_ptr<float>(), *bh = db_held.data_ptr<float>();
  // Of all hops of the rows at hand: what was heard, and the gradients of r, z, n of what came in and n of the state
  auto heard = at::zeros({hops, ROWS, 2 * C}, at::kBFloat16), changes = at::zeros({hops, ROWS, 4 * C}, at::kBFloat16);
  auto dw = at::zeros({4 * C, 2 * C});
  Tile<C> t;
  alignas(64) float dh[ROWS][C], out[ROWS][C], g[ROWS][4 * C] = {}, before[ROWS][C] = {};
  alignas(64) float db[4 * C] = {};
  for (int64_t row = 0; row < rows; row += ROWS) {
    const int count = std::min<int64_t>(ROWS, rows - row);
    std::fill(dh[0], dh[0] + ROWS * C, 0.f);
    if (count < ROWS) heard.zero_(), changes.zero_(), std::fill(g[0], g[0] + ROWS * 4 * C, 0.f);
    configure();
    for (int64_t hop = hops - 1; hop >= 0; --hop) {
      const int64_t at = (row * hops + hop) * C;
      Half* a = heard.data_ptr<Half>() + hop * ROWS * 2 * C;
      Half* d = changes.data_ptr<Half>() + hop * ROWS * 4 * C;
      for (int r = 0; r < count; ++r) {
        const float* state = hop ? py + at + r * hops * C - C : ph + (row + r) * C;
        std::copy(state, state + C, before[r]);
        round(px + at + r * hops * C, a + r * 2 * C, C);
        round(state, a + r * 2 * C + C, C);
      }
      t.step(w, a);
      for (int r = 0; r < count; ++r) {
        const float* change = pdy + at + r * hops * C;
        for (int c = 0; c < C; ++c) {
          const float rr = t.gates[r][c], z = t.gates[r][C + c], n = t.gates[r][2 * C + c];
          const float whole = dh[r][c] + change[c];
          const float an = whole * (1 - z) * (1 - n * n);
          g[r][c] = an * t.held[r][c] * rr * (1 - rr);
          g[r][C + c] = whole * (before[r][c] - n) * z * (1 - z);
          g[r][2 * C + c] = an;
          g[r][3 * C + c] = an * rr;
          dh[r][c] = whole * z;
        }
        for (int j = 0; j < 4 * C; ++j) db[j] += g[r][j];
        round(g[r], d + r * 4 * C, 4 * C);
      }
      for (int n = 0; n < C; n += 32) {
        zero();
        add<4 * C>(d, w.in_t, n);
        if (count == ROWS) {
          store(pdx + at + n, hops * C);
        } else {
          store(out[0] + n, C);
        }
        load(dh[0] + n, C);
        add<4 * C>(d, w.held_t, n, 0, 2 * C / DEPTH);
        add<4 * C>(d + 3 * C, w.held_t, n, 2 * C / DEPTH);
        store(dh[0] + n, C);
      }
      if (count < ROWS)
        for (int r = 0; r < count; ++r) std::copy(out[r], out[r] + C, pdx + at + r * hops * C);
    }
    _tile_release();
    dw.add_(at::mm(changes.view({-1, 4 * C}).t(), heard.view({-1, 2 * C})));
    std::copy(dh[0], dh[0] + count * C, dh0.data_ptr<float>() + row * C);
  }
  dw_in.copy_(dw.slice(0, 0, 3 * C).slice(1, 0, C));
  dw_held.copy_(at::cat({dw.slice(0, 0, 2 * C), dw.slice(0, 3 * C)}).slice(1, C));
  for (int c = 0; c < C; ++c) {
    bi[c] = bh[c] = db[c];
    bi[C + c] = bh[C + c] = db[C + c];
    bi[2 * C + c] = db[2 * C + c];
    bh[2 * C + c] = db[3 * C + c];
  }
}

template <typename Work>
void for_channels(int64_t channels, Work work) {
  switch (channels) {
    case 32: return work(std::integral_constant<int, 32>());
    case 64: return work(std::integral_constant<int, 64>());
    case 96: return work(std::integral_constant<int, 96>());
    case 128: return work(std::integral_constant<int, 128>());
    default: TORCH_CHECK(false, "channels ", channels, ": allowed are 32, 64, 96, 128");
  }
}

}  // namespace

bool has_bf16(int64_t channels) {
  return allowed() && (channels == 32 || channels == 64 || channels == 96 || channels == 128);
}

void forward_bf16(const at::Tensor& x, const at::Tensor& h0, const at::Tensor& w_in, const at::Tensor& w_held,
                  const at::Tensor& b_in, const at::Tensor& b_held, at::Tensor& y) {
  for_channels(x.size(2), [&](auto c) {
    forward<c>(x, h0, *std::make_unique<Weights<c>>(w_in, w_held, b_in, b_held), y);
  });
}

void backward_bf16(const at::Tensor& x, const at::Tensor& h0, const at::Tensor& w_in, const at::Tensor& w_held,
                   const at::Tensor& b_in, const at::Tensor& b_held, const at::Tensor& y, const at::Tensor& dy,
                   std::vector<at::Tensor>& out) {
  for_channels(x.size(2), [&](auto c) {
    auto w = std::make_unique<Weights<c>>(w_in, w_held, b_in, b_held);
    backward<c>(x, h0, *w, y, dy, out[0], out[1], out[2], out[3], out[4], out[5]);
  });
}

#else

bool has_bf16(int64_t) { return false; }

void forward_bf16(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                  const at::Tensor&, at::Tensor&) {
  TORCH_CHECK(false, "compiled for a processor without AMX");
}

void backward_bf16(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                   const at::Tensor&, const at::Tensor&, const at::Tensor&, std::vector<at::Tensor>&) {
  TORCH_CHECK(false, "compiled for a processor without AMX");
}

#endif
