// Functions for JavaScript, beside TensorFlow's: the sums of galore/projection/fixed-sums.ts, which has the same in
// JavaScript, bit by bit. Every trainer makes the factors of power slots from the same bytes and has to get the same
// numbers: each sum is in double and in the order of its index, whatever the threads and the vector registers are, and
// this file is compiled without fused multiply-adds.
#include <node_api.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 8, kRows = 12;
#elif defined(__AVX__)
constexpr int kLanes = 4, kRows = 6;
#else
constexpr int kLanes = 2, kRows = 6;
#endif
constexpr int kPanel = 2 * kLanes;
constexpr int64_t kChunk = 64;              // rows that are widened to double at once
constexpr int64_t kMinParallel = 1 << 20;  // products, below which one thread is faster
typedef double Lanes __attribute__((vector_size(kLanes * sizeof(double)), aligned(sizeof(double))));

// c [kRows, kPanel] += sum over k of a[k a_step + i a_stride] b[k b_stride + j]
void AddProducts(const double* a, int64_t a_step, int64_t a_stride, const double* b, int64_t b_stride, int64_t depth,
                 double* c, int64_t c_stride) {
  Lanes sums[kRows][2];
#pragma GCC unroll 12
  for (int i = 0; i < kRows; i++) std::memcpy(sums[i], c + i * c_stride, sizeof sums[i]);
  for (int64_t k = 0; k < depth; k++, a += a_step, b += b_stride) {
    const Lanes first = *reinterpret_cast<const Lanes*>(b);
    const Lanes second = *reinterpret_cast<const Lanes*>(b + kLanes);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; i++) {
      const Lanes left = a[i * a_stride] - Lanes{};  // in all lanes
      sums[i][0] += left * first;
      sums[i][1] += left * second;
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; i++) std::memcpy(c + i * c_stride, sums[i], sizeof sums[i]);
}

int64_t RoundedUp(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// x [rows, cols] -> x'x [cols, cols]
void Gram(const float* x, int64_t rows, int64_t cols, double* gram) {
  const int64_t height = RoundedUp(cols, kRows), width = RoundedUp(std::max(cols, height), kPanel);
  std::vector<double> sums(height * width, 0.0);
#pragma omp parallel if (rows * cols * cols > kMinParallel)
  {
    std::vector<double> wide(kChunk * width, 0.0);
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    for (int64_t start = 0; start < rows; start += kChunk) {
      const int64_t count = std::min(kChunk, rows - start);
      for (int64_t k = 0; k < count; k++) {
        for (int64_t j = 0; j < cols; j++) wide[k * width + j] = x[(start + k) * cols + j];
      }
      // The lower triangle; its rows become longer, so the threads take turns.
      for (int64_t i = thread * kRows; i < cols; i += threads * kRows) {
        for (int64_t j = 0; j < i + kRows; j += kPanel) {
          AddProducts(&wide[i], width, 1, &wide[j], width, count, &sums[i * width + j], width);
        }
      }
    }
  }
  for (int64_t i = 0; i < cols; i++) {
    for (int64_t j = 0; j <= i; j++) gram[i * cols + j] = gram[j * cols + i] = sums[i * width + j];
  }
}

// x [rows, cols], t [cols, cols] -> xt [rows, cols], or with `is_form` the products of its rows and those of x [rows]
void Times(const float* x, int64_t rows, int64_t cols, const double* t, bool is_form, float* out) {
  const int64_t width = RoundedUp(cols, kPanel);
  std::vector<double> right(cols * width, 0.0);
  std::vector<int64_t> depths(width / kPanel, 0);  // of a panel, rows up to the last that is not zero
  for (int64_t k = 0; k < cols; k++) {
    for (int64_t j = 0; j < cols; j++) {
      right[k * width + j] = t[k * cols + j];
      if (t[k * cols + j] != 0) depths[j / kPanel] = k + 1;
    }
  }
#pragma omp parallel for schedule(static) if (rows * cols * cols > kMinParallel)
  for (int64_t start = 0; start < rows; start += kRows) {
    const int64_t count = std::min<int64_t>(kRows, rows - start);
    std::vector<double> left(kRows * cols, 0.0), product(kRows * width, 0.0);
    for (int64_t i = 0; i < count * cols; i++) left[i] = x[start * cols + i];
    for (int64_t j = 0; j < cols; j += kPanel) {
      AddProducts(left.data(), 1, cols, &right[j], width, depths[j / kPanel], &product[j], width);
    }
    for (int64_t i = 0; i < count; i++) {
      const double *from = &product[i * width], *with = &left[i * cols];
      double sum = 0;
      if (is_form) {
        for (int64_t j = 0; j < cols; j++) sum += from[j] * with[j];
        out[start + i] = static_cast<float>(sum);
      } else {
        for (int64_t j = 0; j < cols; j++) out[(start + i) * cols + j] = static_cast<float>(from[j]);
      }
    }
  }
}

// The arguments of a call. What is not as it has to be is reported once.
class Arguments {
 public:
  Arguments(napi_env env, napi_callback_info info) : env_(env) {
    size_t count = kMost;
    is_ok_ = napi_get_cb_info(env, info, &count, values_, nullptr, nullptr) == napi_ok;
  }

  template <typename T>
  T* Array(int index, napi_typedarray_type type, size_t length) {
    napi_typedarray_type actual;
    size_t actual_length;
    void* data = nullptr;
    const bool is_array = napi_get_typedarray_info(env_, values_[index], &actual, &actual_length, &data, nullptr,
                                                   nullptr) == napi_ok;
    if (!is_array || actual != type || actual_length != length) Fail("an array of the right type and length");
    return static_cast<T*>(data);
  }

  // Of an array of bytes.
  double Address(int index) {
    napi_typedarray_type type;
    void* data = nullptr;
    const bool is_array =
        napi_get_typedarray_info(env_, values_[index], &type, nullptr, &data, nullptr, nullptr) == napi_ok;
    if (!is_array || type != napi_uint8_array) Fail("an Uint8Array");
    return static_cast<double>(reinterpret_cast<uintptr_t>(data));
  }

  int64_t Integer(int index) {
    int64_t value = 0;
    if (napi_get_value_int64(env_, values_[index], &value) != napi_ok) Fail("a number");
    return value;
  }

  bool IsOk() const { return is_ok_; }

 private:
  void Fail(const char* wanted) {
    if (is_ok_) napi_throw_type_error(env_, nullptr, wanted);
    is_ok_ = false;
  }

  static constexpr int kMost = 6;
  napi_env env_;
  napi_value values_[kMost];
  bool is_ok_;
};

// galoreAddress(bytes): where they lie in memory, for operations of this process during which they are held.
napi_value AddressFunction(napi_env env, napi_callback_info info) {
  Arguments given(env, info);
  const double address = given.Address(0);
  napi_value result = nullptr;
  if (given.IsOk()) napi_create_double(env, address, &result);
  return result;
}

// galoreGram(x, rows, cols, gram)
napi_value GramFunction(napi_env env, napi_callback_info info) {
  Arguments given(env, info);
  const int64_t rows = given.Integer(1), cols = given.Integer(2);
  const float* x = given.Array<float>(0, napi_float32_array, rows * cols);
  double* gram = given.Array<double>(3, napi_float64_array, cols * cols);
  if (given.IsOk()) Gram(x, rows, cols, gram);
  return nullptr;
}

// galoreTimes(x, rows, cols, t, isForm, out)
napi_value TimesFunction(napi_env env, napi_callback_info info) {
  Arguments given(env, info);
  const int64_t rows = given.Integer(1), cols = given.Integer(2), is_form = given.Integer(4);
  const float* x = given.Array<float>(0, napi_float32_array, rows * cols);
  const double* t = given.Array<double>(3, napi_float64_array, cols * cols);
  float* out = given.Array<float>(5, napi_float32_array, is_form ? rows : rows * cols);
  if (given.IsOk()) Times(x, rows, cols, t, is_form != 0, out);
  return nullptr;
}

void Define(napi_env env, napi_value exports, const char* name, napi_callback function) {
  napi_value value;
  if (napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &value) != napi_ok) return;
  napi_set_named_property(env, exports, name, value);
}

}  // namespace

// Called by quiet-binding.cc.
extern "C" __attribute__((visibility("default"))) void GaloreDefineFunctions(napi_env env, napi_value exports) {
  Define(env, exports, "galoreAddress", &AddressFunction);
  Define(env, exports, "galoreGram", &GramFunction);
  Define(env, exports, "galoreTimes", &TimesFunction);
}
