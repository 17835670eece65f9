// Bits and arithmetic. Included by gridpoint_cuda.h.
#pragma once

// ---- bit patterns and conversions ---------------------------------------------------------------------------------------------

namespace gridpoint_cuda {

template <typename To, typename From>
static inline To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From), "bits of another size");
  To answer;
  memcpy(&answer, &value, sizeof answer);
  return answer;
}

}  // namespace gridpoint_cuda

static inline int __float_as_int(float x) { return gridpoint_cuda::bits_as<int>(x); }
static inline unsigned int __float_as_uint(float x) { return gridpoint_cuda::bits_as<unsigned int>(x); }
static inline float __int_as_float(int x) { return gridpoint_cuda::bits_as<float>(x); }
static inline float __uint_as_float(unsigned int x) { return gridpoint_cuda::bits_as<float>(x); }
static inline long long __double_as_longlong(double x) { return gridpoint_cuda::bits_as<long long>(x); }
static inline double __longlong_as_double(long long x) { return gridpoint_cuda::bits_as<double>(x); }

static inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
static inline int __float2int_rz(float x) { return static_cast<int>(x); }
static inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
static inline int __float2int_ru(float x) { return static_cast<int>(ceilf(x)); }
static inline unsigned int __float2uint_rn(float x) { return static_cast<unsigned int>(nearbyintf(x)); }
static inline unsigned int __float2uint_rz(float x) { return static_cast<unsigned int>(x); }
static inline float __int2float_rn(int x) { return static_cast<float>(x); }
static inline float __uint2float_rn(unsigned int x) { return static_cast<float>(x); }

// ---- integers -----------------------------------------------------------------------------------------------------------------

static inline int __popc(unsigned int x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned int>(x)); }
static inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned int __brev(unsigned int x) {
  unsigned int answer = 0;
  for (int bit = 0; bit < 32; ++bit) answer |= (x >> bit & 1u) << (31 - bit);
  return answer;
}
static inline int __mulhi(int x, int y) { return static_cast<int>((static_cast<long long>(x) * y) >> 32); }
static inline unsigned int __umulhi(unsigned int x, unsigned int y) {
  return static_cast<unsigned int>((static_cast<unsigned long long>(x) * y) >> 32);
}
// The upper and the lower word of high:low, shifted by the low five bits of `shift`.
static inline unsigned int __funnelshift_l(unsigned int low, unsigned int high, unsigned int shift) {
  return static_cast<unsigned int>((static_cast<unsigned long long>(high) << 32 | low) << (shift & 31) >> 32);
}
static inline unsigned int __funnelshift_r(unsigned int low, unsigned int high, unsigned int shift) {
  return static_cast<unsigned int>((static_cast<unsigned long long>(high) << 32 | low) >> (shift & 31));
}

#define GRIDPOINT_LESSER_AND_GREATER(type, left, right)                                                                       \
  static inline type min(left a, right b) { return static_cast<type>(a) < static_cast<type>(b) ? static_cast<type>(a) : static_cast<type>(b); } \
  static inline type max(left a, right b) { return static_cast<type>(a) > static_cast<type>(b) ? static_cast<type>(a) : static_cast<type>(b); }
GRIDPOINT_LESSER_AND_GREATER(int, int, int)
GRIDPOINT_LESSER_AND_GREATER(unsigned int, unsigned int, unsigned int)
GRIDPOINT_LESSER_AND_GREATER(unsigned int, int, unsigned int)
GRIDPOINT_LESSER_AND_GREATER(unsigned int, unsigned int, int)
GRIDPOINT_LESSER_AND_GREATER(long, long, long)
GRIDPOINT_LESSER_AND_GREATER(unsigned long, unsigned long, unsigned long)
GRIDPOINT_LESSER_AND_GREATER(long long, long long, long long)
GRIDPOINT_LESSER_AND_GREATER(unsigned long long, unsigned long long, unsigned long long)
#undef GRIDPOINT_LESSER_AND_GREATER
// A number and a NaN give the number.
static inline float min(float a, float b) { return __builtin_fminf(a, b); }
static inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
static inline double min(double a, double b) { return __builtin_fmin(a, b); }
static inline double max(double a, double b) { return __builtin_fmax(a, b); }
static inline double min(float a, double b) { return __builtin_fmin(a, b); }
static inline double max(float a, double b) { return __builtin_fmax(a, b); }
static inline double min(double a, float b) { return __builtin_fmin(a, b); }
static inline double max(double a, float b) { return __builtin_fmax(a, b); }

// ---- floating point -------------------------------------------------------------------------------------------------------------

static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __frsqrt_rn(float a) { return 1.0f / sqrtf(a); }
static inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }

// Macros, because C libraries declare some of these names themselves.
#define rsqrtf(x) (1.0f / sqrtf(x))
#define rsqrt(x) (1.0 / sqrt(static_cast<double>(x)))
#define __fdividef(a, b) (static_cast<float>(a) / static_cast<float>(b))
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __powf(x, y) powf(x, y)
