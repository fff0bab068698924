// Operations of TensorFlow for slots that travel as power (galore/feedback/gradient.ts, galore/optimizer/power.ts): the
// sketch of an error, what is left of it, and the update. The m x n matrices are made a tile of rows at a time, in
// the cache: nothing of that size is written but what is kept. A product is summed in the order of its inner
// dimension, one fused multiply-add after the other, so that it does not depend on threads or vector registers.
//
// Bytes of the int8 codec (galore/codec/int8.ts) are JavaScript's arrays, whose addresses come in `integers`: they stay
// where they are during a call, and a tensor of them would be a copy.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernel-call.h"

namespace {

constexpr int64_t kBlock = 256;            // numbers that share a scale
constexpr int64_t kTileNumbers = 1 << 15;  // of a tile, about: it and what is made of it stay in the cache
constexpr int64_t kMinTileRows = 24;       // fewer would read the other factor too often
constexpr int64_t kMaxGroups = 64;         // partial sums of a product over rows

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 12;
#elif defined(__AVX__)
constexpr int kLanes = 8, kRows = 6;
#else
constexpr int kLanes = 4, kRows = 6;
#endif
constexpr int kPanel = 2 * kLanes;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float))));

// The right factor of a product, in panels of kPanel columns with their rows one after the other; zeros at the end.
class Panels {
 public:
  // b [depth, columns], or its transpose [columns, depth]
  void Pack(const float* b, int64_t depth, int64_t columns, bool is_transposed) {
    depth_ = depth;
    columns_ = columns;
    data_.resize((columns + kPanel - 1) / kPanel * kPanel * depth);
    float* to = data_.data();
    for (int64_t first = 0; first < columns; first += kPanel) {
      const int64_t width = std::min<int64_t>(kPanel, columns - first);
      for (int64_t k = 0; k < depth; k++, to += kPanel) {
        for (int64_t j = 0; j < width; j++) {
          to[j] = is_transposed ? b[(first + j) * depth + k] : b[k * columns + first + j];
        }
        std::fill(to + width, to + kPanel, 0.0f);
      }
    }
  }
  const float* At(int64_t column) const { return data_.data() + column * depth_; }
  int64_t depth() const { return depth_; }
  int64_t columns() const { return columns_; }

 private:
  std::vector<float> data_;
  int64_t depth_ = 0, columns_ = 0;
};

template <int kCount>
void MultiplyPanel(const float* a, int64_t a_stride, const float* b, int64_t depth, float* c, int64_t c_stride) {
  Lanes sums[kCount][2];
#pragma GCC unroll 12
  for (int i = 0; i < kCount; i++) {
    std::memcpy(sums[i], c + i * c_stride, sizeof sums[i]);
  }
  for (int64_t k = 0; k < depth; k++, b += kPanel) {
    const Lanes left = *reinterpret_cast<const Lanes*>(b);
    const Lanes right = *reinterpret_cast<const Lanes*>(b + kLanes);
#pragma GCC unroll 12
    for (int i = 0; i < kCount; i++) {
      const Lanes x = a[i * a_stride + k] - Lanes{};  // in all lanes
      sums[i][0] += x * left;
      sums[i][1] += x * right;
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kCount; i++) std::memcpy(c + i * c_stride, sums[i], sizeof sums[i]);
}

using PanelProduct = void (*)(const float*, int64_t, const float*, int64_t, float*, int64_t);

template <int kCount>
PanelProduct PanelProductOf(int count) {
  if constexpr (kCount == 0) {
    return nullptr;
  } else {
    return count == kCount ? &MultiplyPanel<kCount> : PanelProductOf<kCount - 1>(count);
  }
}

// c [rows, columns] += a [rows, depth] b
void MultiplyAdd(const float* a, int64_t rows, const Panels& b, float* c) {
  const int64_t depth = b.depth(), columns = b.columns();
  float partial[kRows * kPanel];
  for (int64_t column = 0; column < columns; column += kPanel) {
    const int64_t width = std::min<int64_t>(kPanel, columns - column);
    for (int64_t row = 0; row < rows; row += kRows) {
      const int count = static_cast<int>(std::min<int64_t>(kRows, rows - row));
      const PanelProduct multiply = PanelProductOf<kRows>(count);
      float* to = c + row * columns + column;
      if (width == kPanel) {
        multiply(a + row * depth, depth, b.At(column), depth, to, columns);
        continue;
      }
      for (int i = 0; i < count; i++) std::memcpy(partial + i * kPanel, to + i * columns, width * sizeof(float));
      multiply(a + row * depth, depth, b.At(column), depth, partial, kPanel);
      for (int i = 0; i < count; i++) std::memcpy(to + i * columns, partial + i * kPanel, width * sizeof(float));
    }
  }
}

// The rows of an [m, n] matrix in tiles that begin with a block of the codec.
struct Tiles {
  Tiles(int64_t m, int64_t n) : m(m), n(n) {
    const int64_t group = kBlock / std::gcd(n, kBlock);
    const int64_t wanted = std::max(kTileNumbers / n, kMinTileRows);
    height = std::max(group, wanted / group * group);
    count = (m + height - 1) / height;
  }
  int64_t RowsOf(int64_t tile) const { return std::min(height, m - tile * height); }
  bool IsParallel() const { return m * n > kMinParallel; }

  int64_t m, n, height, count;
};

// Bytes of the int8 codec: scales of all blocks, then all codes. They lie at any address.
class Codes {
 public:
  Codes(int64_t address, int64_t count)
      : bytes_(reinterpret_cast<char*>(address)), codes_(reinterpret_cast<int8_t*>(address) + Blocks(count) * 4) {}

  float Scale(int64_t block) const {
    float scale;
    std::memcpy(&scale, bytes_ + 4 * block, sizeof scale);
    return scale;
  }
  void SetScale(int64_t block, float scale) { std::memcpy(bytes_ + 4 * block, &scale, sizeof scale); }
  int8_t* At(int64_t index) const { return codes_ + index; }

 private:
  static int64_t Blocks(int64_t count) { return (count + kBlock - 1) / kBlock; }

  char* bytes_;
  int8_t* codes_;
};

// values = the numbers from `first` on, which begins a block
void Decode(const Codes& codes, int64_t first, int64_t count, float* values) {
  for (int64_t start = 0; start < count; start += kBlock) {
    const float scale = codes.Scale((first + start) / kBlock);
    const int8_t* from = codes.At(first + start);
    const int64_t length = std::min(kBlock, count - start);
    for (int64_t i = 0; i < length; i++) values[start + i] = from[i] * scale;
  }
}

inline uint32_t Mix(uint32_t x) {  // mix32 of src/random.ts
  x = (x ^ (x >> 16)) * 0x21f0aaadu;
  x = (x ^ (x >> 15)) * 0xd35a2d97u;
  return x ^ (x >> 15);
}

struct Key {
  uint32_t low, high;
};

// Codes of 256 numbers, the first of which is number `first` of the random stream. Returns the bits of the largest
// magnitude: from 0x7f800000 on, not all are finite, and codes and scale mean nothing.
int32_t QuantiseBlock(const float* values, int64_t first, Key key, float* scale, int8_t* codes) {
  constexpr float kMaxScale = 0x1.fffffep127f / 128, kMinScale = 0x1p-126f;
  // How far from a whole number the sum below is the same in float and in double: it is off by less than 2.5e-5.
  constexpr float kMargin = 4e-5f;
  int32_t largest = 0;
  for (int i = 0; i < kBlock; i++) {
    int32_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  float magnitude;
  std::memcpy(&magnitude, &largest, sizeof magnitude);
  *scale = std::min(static_cast<float>(magnitude / 127.0), kMaxScale);
  if (!(*scale >= kMinScale)) {
    *scale = 0;
    std::memset(codes, 0, kBlock);
    return largest;
  }
  uint32_t dice[kBlock];
  for (int i = 0; i < kBlock; i++) dice[i] = Mix(Mix((static_cast<uint32_t>(first) + i) ^ key.low) + key.high);
  const float inverse = 1 / *scale;
  int32_t rounded[kBlock];
  int32_t is_close = 0;
  for (int i = 0; i < kBlock; i++) {
    const float sum = values[i] * inverse + static_cast<float>(static_cast<int32_t>(dice[i] >> 8)) * 0x1p-24f;
    const float whole = std::floor(sum), rest = sum - whole;
    is_close |= static_cast<int32_t>(rest < kMargin) | static_cast<int32_t>(rest > 1 - kMargin);
    rounded[i] = static_cast<int32_t>(whole);
  }
  if (is_close != 0) {
    for (int i = 0; i < kBlock; i++) {
      const double quotient = static_cast<double>(values[i]) / static_cast<double>(*scale);
      rounded[i] = static_cast<int32_t>(std::floor(dice[i] * 0x1p-32 + quotient));
    }
  }
  for (int i = 0; i < kBlock; i++) codes[i] = static_cast<int8_t>(std::max(-127, std::min(127, rounded[i])));
  return largest;
}

// Encodes the numbers from `first` on, which begins a block; returns the bits of the largest magnitude.
int32_t Encode(const float* values, int64_t first, int64_t count, Key key, Codes* codes) {
  int32_t largest = 0;
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t length = std::min(kBlock, count - start);
    float scale;
    if (length == kBlock) {
      largest = std::max(largest, QuantiseBlock(values + start, first + start, key, &scale, codes->At(first + start)));
    } else {
      float last[kBlock] = {};
      int8_t its_codes[kBlock];
      std::memcpy(last, values + start, length * sizeof(float));
      largest = std::max(largest, QuantiseBlock(last, first + start, key, &scale, its_codes));
      std::memcpy(codes->At(first + start), its_codes, length);
    }
    codes->SetScale((first + start) / kBlock, scale);
  }
  return largest;
}

// tile = E + share G, both from number `first` on
template <typename T>
void OpenError(const Codes& error, const T* gradient, float share, int64_t first, int64_t count, float* tile) {
  Decode(error, first, count, tile);
  const T* from = gradient + first;
  for (int64_t i = 0; i < count; i++) tile[i] += share * Load(from[i]);
}

void StoreScalar(TF_Tensor* tensor, int32_t bits) { std::memcpy(TF_TensorData(tensor), &bits, sizeof bits); }

// EW: each row by itself. factor [n, r], payload [m, r]
template <typename T>
void SketchTall(const Tiles& tiles, const Codes& error, const T* gradient, float share, const float* factor, int64_t r,
                float* payload) {
  Panels w;
  w.Pack(factor, tiles.n, r, false);
  std::fill(payload, payload + tiles.m * r, 0.0f);
#pragma omp parallel if (tiles.IsParallel())
  {
    std::vector<float> tile(tiles.height * tiles.n);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tiles.count; t++) {
      const int64_t row = t * tiles.height, rows = tiles.RowsOf(t);
      OpenError(error, gradient, share, row * tiles.n, rows * tiles.n, tile.data());
      MultiplyAdd(tile.data(), rows, w, payload + row * r);
    }
  }
}

// P'E: a sum over rows, in groups of tiles that do not depend on the threads. factor [m, r], payload [r, n]
template <typename T>
void SketchWide(const Tiles& tiles, const Codes& error, const T* gradient, float share, const float* factor, int64_t r,
                float* payload) {
  const int64_t size = r * tiles.n, groups = std::min(kMaxGroups, (tiles.count + 7) / 8);
  std::vector<float> partial(groups * size, 0.0f);
#pragma omp parallel if (tiles.IsParallel())
  {
    std::vector<float> tile(tiles.height * tiles.n), transposed(tiles.height * r);
    Panels e;
#pragma omp for schedule(static)
    for (int64_t group = 0; group < groups; group++) {
      for (int64_t t = group * tiles.count / groups; t < (group + 1) * tiles.count / groups; t++) {
        const int64_t row = t * tiles.height, rows = tiles.RowsOf(t);
        OpenError(error, gradient, share, row * tiles.n, rows * tiles.n, tile.data());
        e.Pack(tile.data(), rows, tiles.n, false);
        for (int64_t i = 0; i < rows; i++) {
          for (int64_t j = 0; j < r; j++) transposed[j * rows + i] = factor[(row + i) * r + j];
        }
        MultiplyAdd(transposed.data(), r, e, partial.data() + group * size);
      }
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < size; i++) {
      float sum = 0;
      for (int64_t group = 0; group < groups; group++) sum += partial[group * size + i];
      payload[i] = sum;
    }
  }
}

// gradient [m, n], factor [n, r] or [m, r], numbers: share, integers: address of the error, 1 for a tall payload
// -> payload EW [m, r] or P'E [r, n] of E = error + share * gradient
template <typename T, TF_DataType kType>
void PowerSketch(void*, TF_OpKernelContext* context) {
  Call call(context);
  const TF_Tensor *gradient = call.Input(0), *factor = call.Input(1), *numbers = call.Input(2),
                  *integers = call.Input(3);
  if (!call.IsOk()) return;
  const Tiles tiles(TF_Dim(gradient, 0), TF_Dim(gradient, 1));
  const bool is_tall = Data<int64_t>(integers)[1] != 0;
  if (!call.Require(TF_Dim(factor, 0) == (is_tall ? tiles.n : tiles.m), "a factor that fits the gradient")) return;
  const int64_t r = Columns(factor);
  TF_Tensor* payload = is_tall ? call.Output(0, TF_FLOAT, gradient, r) : call.Matrix(0, TF_FLOAT, r, tiles.n);
  if (!call.IsOk()) return;
  const Codes error(Data<int64_t>(integers)[0], tiles.m * tiles.n);
  (is_tall ? &SketchTall<T> : &SketchWide<T>)(tiles, error, Data<T>(gradient), *Data<float>(numbers),
                                              Data<float>(factor), r, Data<float>(payload));
}

// The two factors of a lifted payload, YW' or PR.
bool PackLift(Call* call, const Tiles& tiles, const TF_Tensor* left, const TF_Tensor* right, bool is_tall, Panels* to) {
  const int64_t r = Columns(left);
  const bool fits = TF_Dim(left, 0) == tiles.m && TF_Dim(right, is_tall ? 1 : 0) == r &&
                    TF_Dim(right, is_tall ? 0 : 1) == tiles.n;
  if (!call->Require(fits, "two factors that fit the matrix")) return false;
  to->Pack(Data<float>(right), r, tiles.n, is_tall);
  return true;
}

// gradient [m, n], left [m, r], right [n, r] or [r, n], numbers: share, integers: addresses of the error and of what it is
// to be, 1 for a tall payload, key -> largest: of magnitudes, infinite or NaN where not all numbers are finite.
// Encodes error + share * gradient - left right.
template <typename T, TF_DataType kType>
void PowerSettle(void*, TF_OpKernelContext* context) {
  Call call(context);
  const TF_Tensor *gradient = call.Input(0), *left = call.Input(1), *right = call.Input(2), *numbers = call.Input(3),
                  *integers = call.Input(4);
  if (!call.IsOk()) return;
  const Tiles tiles(TF_Dim(gradient, 0), TF_Dim(gradient, 1));
  const int64_t size = tiles.m * tiles.n, *given = Data<int64_t>(integers);
  Panels panels;
  if (!PackLift(&call, tiles, left, right, given[2] != 0, &panels)) return;
  TF_Tensor* result = call.Output(0, TF_FLOAT, numbers);
  if (!call.IsOk()) return;
  const Codes error(given[0], size);
  Codes next(given[1], size);
  const Key key{static_cast<uint32_t>(given[3]), static_cast<uint32_t>(given[4])};
  const float share = *Data<float>(numbers);
  int32_t largest = 0;
#pragma omp parallel if (tiles.IsParallel()) reduction(max : largest)
  {
    std::vector<float> tile(tiles.height * tiles.n), lifted(tiles.height * tiles.n);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tiles.count; t++) {
      const int64_t row = t * tiles.height, rows = tiles.RowsOf(t), count = rows * tiles.n;
      std::fill(lifted.begin(), lifted.end(), 0.0f);
      MultiplyAdd(Data<float>(left) + row * panels.depth(), rows, panels, lifted.data());
      OpenError(error, Data<T>(gradient), share, row * tiles.n, count, tile.data());
      for (int64_t i = 0; i < count; i++) tile[i] -= lifted[i];
      largest = std::max(largest, Encode(tile.data(), row * tiles.n, count, key, &next));
    }
  }
  StoreScalar(result, largest);
}

// What numbers[] of an update are.
struct UpdateNumbers {
  float beta1, rest1;  // 1 - beta1
  float correction;    // 1 / (1 - beta1^t)
  float eps;
  float rate;           // learning rate times scale
  float before, after;  // factors of weight decay
  float clip;           // greatest root mean square of the direction
};

// weight [m, n], left [m, r], right [n, r] or [r, n], row_roots [m], column_roots [n], numbers, integers as above, of
// the moment -> next [m, n], largest. With G = left right:
//   M <- b1 M + (1 - b1) G,  U = M / c1 / (row_root column_root + eps),  W <- (W before - rate U / max(1, rms(U) / clip)) after
void PowerUpdate(void*, TF_OpKernelContext* context) {
  Call call(context);
  const TF_Tensor *weight = call.Input(0), *left = call.Input(1), *right = call.Input(2), *row_roots = call.Input(3),
                  *column_roots = call.Input(4), *numbers = call.Input(5), *integers = call.Input(6);
  if (!call.IsOk()) return;
  const Tiles tiles(TF_Dim(weight, 0), TF_Dim(weight, 1));
  const int64_t n = tiles.n, size = tiles.m * n, *given = Data<int64_t>(integers);
  Panels panels;
  if (!call.Require(TF_TensorElementCount(row_roots) == tiles.m && TF_TensorElementCount(column_roots) == n,
                    "a root for each row and column") ||
      !PackLift(&call, tiles, left, right, given[2] != 0, &panels))
    return;
  TF_Tensor* next = call.Output(0, TF_FLOAT, weight);
  TF_Tensor* result = call.Matrix(1, TF_FLOAT, 1, 1);
  if (!call.IsOk()) return;
  const UpdateNumbers with = *reinterpret_cast<const UpdateNumbers*>(Data<float>(numbers));
  const float *old = Data<float>(weight), *roots = Data<float>(column_roots);
  float* to = Data<float>(next);
  const Codes moment(given[0], size);
  Codes next_moment(given[1], size);
  const Key key{static_cast<uint32_t>(given[3]), static_cast<uint32_t>(given[4])};
  std::vector<double> squares(tiles.count, 0.0);
  int32_t largest = 0;
#pragma omp parallel if (tiles.IsParallel()) reduction(max : largest)
  {
    std::vector<float> tile(tiles.height * n), lifted(tiles.height * n);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tiles.count; t++) {
      const int64_t first_row = t * tiles.height, rows = tiles.RowsOf(t), first = first_row * n, count = rows * n;
      std::fill(lifted.begin(), lifted.end(), 0.0f);
      MultiplyAdd(Data<float>(left) + first_row * panels.depth(), rows, panels, lifted.data());
      Decode(moment, first, count, tile.data());
      for (int64_t row = 0; row < rows; row++) {
        const float root = Data<float>(row_roots)[first_row + row];
        float *m = tile.data() + row * n, sum = 0;
        const float *g = lifted.data() + row * n, *from = old + first + row * n;
        float* weights = to + first + row * n;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) {
          m[i] = m[i] * with.beta1 + g[i] * with.rest1;
          const float u = m[i] * with.correction / (root * roots[i] + with.eps);
          sum += u * u;
          weights[i] = (from[i] * with.before - with.rate * u) * with.after;
        }
        squares[t] += sum;
      }
      largest = std::max(largest, Encode(tile.data(), first, count, key, &next_moment));
    }
  }
  StoreScalar(result, largest);
  const double rms = std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0) / size);
  if (!(rms > with.clip)) return;
  // Seldom: the step from the weight as it would be without an update becomes shorter.
  const float kept = with.before * with.after, share = static_cast<float>(with.clip / rms);
#pragma omp parallel for simd schedule(static) if (parallel : size > kMinParallel)
  for (int64_t i = 0; i < size; i++) to[i] = old[i] * kept + (to[i] - old[i] * kept) * share;
}

struct Registration {
  Registration() {
    const char* const to_sketch[] = {"gradient: T", "factor: float", "numbers: float", "integers: int64", nullptr};
    const char* const payload[] = {"payload: float", nullptr};
    Register("GalorePowerSketch", to_sketch, payload, &PowerSketch<float, TF_FLOAT>, &PowerSketch<Bf16, TF_BFLOAT16>);
    const char* const to_settle[] = {"gradient: T",    "left: float",     "right: float",
                                     "numbers: float", "integers: int64", nullptr};
    const char* const largest[] = {"largest: float", nullptr};
    Register("GalorePowerSettle", to_settle, largest, &PowerSettle<float, TF_FLOAT>, &PowerSettle<Bf16, TF_BFLOAT16>);
    const char* const to_update[] = {"weight: T",           "left: float",    "right: float",    "row_roots: float",
                                     "column_roots: float", "numbers: float", "integers: int64", nullptr};
    const char* const updated[] = {"next: T", "largest: float", nullptr};
    Register("GalorePowerUpdate", to_update, updated, &PowerUpdate);
  }
} registration;

}  // namespace
