// The table of a module's kernels. Included by gridpoint_cuda.h.
#pragma once

namespace gridpoint_cuda {

// Parameters as CUDA packs them: each at the next multiple of its alignment.
template <typename... T>
struct Layout {
  static constexpr uint32_t count = sizeof...(T);
  struct Table {
    GridpointParameter parameter[count + 1];
    uint32_t bytes;
  };
  static constexpr Table make() {
    Table table{};
    constexpr uint32_t sizes[count + 1] = {static_cast<uint32_t>(sizeof(T))..., 0};
    constexpr uint32_t alignments[count + 1] = {static_cast<uint32_t>(alignof(T))..., 1};
    for (uint32_t i = 0; i < count; ++i) {
      table.bytes = (table.bytes + alignments[i] - 1) / alignments[i] * alignments[i];
      table.parameter[i] = {table.bytes, sizes[i]};
      table.bytes += sizes[i];
    }
    return table;
  }
  static constexpr Table table = make();
};

template <typename T>
union Unpacked {
  T value;
  Unpacked() {}
};

// The block lies at a multiple of 8, which is not enough for every type: each parameter is copied out.
template <typename T>
static inline T unpack(const void* block, uint32_t offset) {
  static_assert(__is_trivially_copyable(T), "a kernel's parameters are trivially copyable");
  Unpacked<T> unpacked;
  __builtin_memcpy(&unpacked, static_cast<const char*>(block) + offset, sizeof(T));
  return unpacked.value;
}

template <size_t... Index>
struct Indices {};
template <size_t Count, size_t... Index>
struct Counted : Counted<Count - 1, Count - 1, Index...> {};
template <size_t... Index>
struct Counted<0, Index...> {
  using type = Indices<Index...>;
};

template <typename... T, size_t... Index>
static inline void call(void (*kernel)(T...), const void* block, Indices<Index...>) {
  (void)block;
  kernel(unpack<T>(block, Layout<T...>::table.parameter[Index].offset)...);
}

template <typename Function, Function* kernel>
struct Entry;
template <typename... T, void (*kernel)(T...)>
struct Entry<void(T...), kernel> {
  using Parameters = Layout<T...>;
  static void enter(const void* block) { call<T...>(kernel, block, typename Counted<sizeof...(T)>::type{}); }
};

template <typename Function>
struct FunctionOf;
template <typename Function>
struct FunctionOf<Function*> {
  using type = Function;
};

// A kernel of the table. `maximum_threads` is every GPU's: what __launch_bounds__ says is not known here.
template <auto kernel>
constexpr GridpointKernel exported(const char* name, const GridpointStaticShared* shared) {
  using Kernel = Entry<typename FunctionOf<decltype(kernel)>::type, kernel>;
  using Parameters = typename Kernel::Parameters;
  return {name, &Kernel::enter, Parameters::table.bytes, 1024, Parameters::table.parameter, Parameters::count, shared};
}

}  // namespace gridpoint_cuda

#define GRIDPOINT_JOINED_OF(a, b) a##b
#define GRIDPOINT_JOINED(a, b) GRIDPOINT_JOINED_OF(a, b)
#define GRIDPOINT_SHARED_START GRIDPOINT_JOINED(__start_, GRIDPOINT_SHARED_SECTION)
#define GRIDPOINT_SHARED_STOP GRIDPOINT_JOINED(__stop_, GRIDPOINT_SHARED_SECTION)
// The linker's bounds of the section; null where nothing is in it.
extern "C" {
extern char GRIDPOINT_SHARED_START[] __attribute__((weak, visibility("hidden")));
extern char GRIDPOINT_SHARED_STOP[] __attribute__((weak, visibility("hidden")));
#ifdef GRIDPOINT_SHARED_IS_MOVED
// Written by whoever moves the variables.
extern const GridpointVariable gridpoint_variables[] __attribute__((visibility("hidden")));
extern const uint64_t gridpoint_variable_count __attribute__((visibility("hidden")));
#define GRIDPOINT_VARIABLES gridpoint_variables, &gridpoint_variable_count
#else
#define GRIDPOINT_VARIABLES nullptr, nullptr
#endif
}

// A second build of a file has a module of another name.
#ifdef GRIDPOINT_VARIANT
#define GRIDPOINT_NAMED(module) GRIDPOINT_JOINED(module##_, GRIDPOINT_VARIANT)
#else
#define GRIDPOINT_NAMED(module) module
#endif

#define GRIDPOINT_EXPORTED(kernel) gridpoint_cuda::exported<&kernel>(#kernel, &gridpoint_static_shared),
#define GRIDPOINT_EACH_1(a) GRIDPOINT_EXPORTED(a)
#define GRIDPOINT_EACH_2(a, ...) GRIDPOINT_EXPORTED(a) GRIDPOINT_EACH_1(__VA_ARGS__)
#define GRIDPOINT_EACH_3(a, ...) GRIDPOINT_EXPORTED(a) GRIDPOINT_EACH_2(__VA_ARGS__)
#define GRIDPOINT_EACH_4(a, ...) GRIDPOINT_EXPORTED(a) GRIDPOINT_EACH_3(__VA_ARGS__)
#define GRIDPOINT_EACH_5(a, ...) GRIDPOINT_EXPORTED(a) GRIDPOINT_EACH_4(__VA_ARGS__)
#define GRIDPOINT_EACH_6(a, ...) GRIDPOINT_EXPORTED(a) GRIDPOINT_EACH_5(__VA_ARGS__)
#define GRIDPOINT_EACH_7(a, ...) GRIDPOINT_EXPORTED(a) GRIDPOINT_EACH_6(__VA_ARGS__)
#define GRIDPOINT_EACH_8(a, ...) GRIDPOINT_EXPORTED(a) GRIDPOINT_EACH_7(__VA_ARGS__)
#define GRIDPOINT_EACH_9(a, ...) GRIDPOINT_EXPORTED(a) GRIDPOINT_EACH_8(__VA_ARGS__)
#define GRIDPOINT_EACH_10(a, ...) GRIDPOINT_EXPORTED(a) GRIDPOINT_EACH_9(__VA_ARGS__)
#define GRIDPOINT_EACH_11(a, ...) GRIDPOINT_EXPORTED(a) GRIDPOINT_EACH_10(__VA_ARGS__)
#define GRIDPOINT_EACH_12(a, ...) GRIDPOINT_EXPORTED(a) GRIDPOINT_EACH_11(__VA_ARGS__)
#define GRIDPOINT_EACH_13(a, ...) GRIDPOINT_EXPORTED(a) GRIDPOINT_EACH_12(__VA_ARGS__)
#define GRIDPOINT_EACH_14(a, ...) GRIDPOINT_EXPORTED(a) GRIDPOINT_EACH_13(__VA_ARGS__)
#define GRIDPOINT_EACH_15(a, ...) GRIDPOINT_EXPORTED(a) GRIDPOINT_EACH_14(__VA_ARGS__)
#define GRIDPOINT_EACH_16(a, ...) GRIDPOINT_EXPORTED(a) GRIDPOINT_EACH_15(__VA_ARGS__)
#define GRIDPOINT_COUNTED(a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, count, ...) count
#define GRIDPOINT_COUNT(...) GRIDPOINT_COUNTED(__VA_ARGS__, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
#define GRIDPOINT_EACH(...) GRIDPOINT_JOINED(GRIDPOINT_EACH_, GRIDPOINT_COUNT(__VA_ARGS__))(__VA_ARGS__)

// At file scope, once a file, with up to 16 kernels; a template's instance is written with at most one argument in angle brackets.
#define GRIDPOINT_EXPORT(module, ...)                                                                                         \
  static const GridpointStaticShared gridpoint_static_shared = {GRIDPOINT_SHARED_START, GRIDPOINT_SHARED_STOP,                 \
                                                                 GRIDPOINT_VARIABLES};                                         \
  static const GridpointKernel gridpoint_kernels[] = {GRIDPOINT_EACH(__VA_ARGS__)};                                            \
  extern "C" const GridpointModule GRIDPOINT_JOINED(gridpoint_module_, GRIDPOINT_NAMED(module)) = {                            \
      GRIDPOINT_TEXT(GRIDPOINT_NAMED(module)), gridpoint_kernels, sizeof(gridpoint_kernels) / sizeof(GridpointKernel)}
