// wgmma and setmaxnreg (PTX ISA 9.7.15 and 9.7.19.5): the instructions of a warpgroup, for sm_90a and the simulated device alone.
//
// Included by ptx.cuh. Accumulators are arrays passed by reference, untouched from the first wgmma on them to the wait for its group.
#pragma once

namespace gridpoint {

// The types of a and b (accumulators are float32) and the forms of wgmma: the flags of gridpoint_wgmma in gridpoint_simulator.h.
enum WgmmaFlags : uint32_t {
  kBf16 = 0,
  kF16 = 1,
  kWgmmaRegistersA = 2,
  kWgmmaTransposedA = 4,
  kWgmmaTransposedB = 8,
  kWgmmaNegatedA = 16,
  kWgmmaNegatedB = 32,
  kWgmmaScaleD = 64,
};

// Swizzles of a matrix descriptor.
enum MatrixSwizzle : uint32_t { kSwizzleNone = 0, kSwizzle128 = 1, kSwizzle64 = 2, kSwizzle32 = 3 };

#ifdef GRIDPOINT_WARPGROUPS

// A matrix descriptor (9.7.15.5.1.2.2): start address and offsets in bytes, multiples of 16; base offset 0, so a swizzled pattern starts
// at a multiple of eight spans.
GRIDPOINT_DEVICE uint64_t matrix_descriptor(uint32_t address, uint32_t leading_bytes, uint32_t stride_bytes, uint32_t swizzle) {
  return (uint64_t)((address & 0x3ffffu) >> 4) | (uint64_t)((leading_bytes & 0x3ffffu) >> 4) << 16 |
         (uint64_t)((stride_bytes & 0x3ffffu) >> 4) << 32 | (uint64_t)swizzle << 62;
}

// Orders accesses to the registers of later wgmmas after earlier ones (9.7.15.7.1).
GRIDPOINT_DEVICE void wgmma_fence() {
#ifdef __CUDACC__
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  gridpoint_wgmma_fence();
#endif
}

// The wgmmas since the last commit become a group (9.7.15.7.2).
GRIDPOINT_DEVICE void wgmma_commit() {
#ifdef __CUDACC__
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  gridpoint_wgmma_commit();
#endif
}

// Waits until at most `Pending` of the newest groups are incomplete (9.7.15.7.3).
template <uint32_t Pending>
GRIDPOINT_DEVICE void wgmma_wait() {
#ifdef __CUDACC__
  asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(Pending) : "memory");
#else
  gridpoint_wgmma_wait(Pending);
#endif
}

// Keeps the compiler from moving accesses of an accumulator across this place; no instruction.
template <int Count>
GRIDPOINT_DEVICE void wgmma_hold(float (&d)[Count]) {
#ifdef __CUDACC__
  GRIDPOINT_UNROLL
  for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(d[i]) : : "memory");
#else
  (void)d;
#endif
}

// setmaxnreg.inc: the warpgroup's threads get `Count` registers each (9.7.19.5).
template <uint32_t Count>
GRIDPOINT_DEVICE void registers_increase() {
#ifdef __CUDACC__
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" : : "n"(Count));
#else
  gridpoint_set_registers(Count, 1);
#endif
}

// setmaxnreg.dec: the warpgroup's threads keep `Count` registers each.
template <uint32_t Count>
GRIDPOINT_DEVICE void registers_decrease() {
#ifdef __CUDACC__
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" : : "n"(Count));
#else
  gridpoint_set_registers(Count, 0);
#endif
}

#ifdef __CUDACC__
// d[64 x N] += or = a[64 x 16] x b[16 x N] by N: one specialisation for each shape. `Flags` are those above; the type is bit 0.
template <int N, uint32_t Flags>
struct Wgmma;

// The operands of accumulator registers, and their numbers in the text, four at a time.
#define GRIDPOINT_D4 "%0, %1, %2, %3"
#define GRIDPOINT_D8 GRIDPOINT_D4 ", " "%4, %5, %6, %7"
#define GRIDPOINT_D12 GRIDPOINT_D8 ", " "%8, %9, %10, %11"
#define GRIDPOINT_D16 GRIDPOINT_D12 ", " "%12, %13, %14, %15"
#define GRIDPOINT_D20 GRIDPOINT_D16 ", " "%16, %17, %18, %19"
#define GRIDPOINT_D24 GRIDPOINT_D20 ", " "%20, %21, %22, %23"
#define GRIDPOINT_D28 GRIDPOINT_D24 ", " "%24, %25, %26, %27"
#define GRIDPOINT_D32 GRIDPOINT_D28 ", " "%28, %29, %30, %31"
#define GRIDPOINT_D36 GRIDPOINT_D32 ", " "%32, %33, %34, %35"
#define GRIDPOINT_D40 GRIDPOINT_D36 ", " "%36, %37, %38, %39"
#define GRIDPOINT_D44 GRIDPOINT_D40 ", " "%40, %41, %42, %43"
#define GRIDPOINT_D48 GRIDPOINT_D44 ", " "%44, %45, %46, %47"
#define GRIDPOINT_D52 GRIDPOINT_D48 ", " "%48, %49, %50, %51"
#define GRIDPOINT_D56 GRIDPOINT_D52 ", " "%52, %53, %54, %55"
#define GRIDPOINT_D60 GRIDPOINT_D56 ", " "%56, %57, %58, %59"
#define GRIDPOINT_D64 GRIDPOINT_D60 ", " "%60, %61, %62, %63"
#define GRIDPOINT_D68 GRIDPOINT_D64 ", " "%64, %65, %66, %67"
#define GRIDPOINT_D72 GRIDPOINT_D68 ", " "%68, %69, %70, %71"
#define GRIDPOINT_D76 GRIDPOINT_D72 ", " "%72, %73, %74, %75"
#define GRIDPOINT_D80 GRIDPOINT_D76 ", " "%76, %77, %78, %79"
#define GRIDPOINT_D84 GRIDPOINT_D80 ", " "%80, %81, %82, %83"
#define GRIDPOINT_D88 GRIDPOINT_D84 ", " "%84, %85, %86, %87"
#define GRIDPOINT_D92 GRIDPOINT_D88 ", " "%88, %89, %90, %91"
#define GRIDPOINT_D96 GRIDPOINT_D92 ", " "%92, %93, %94, %95"
#define GRIDPOINT_D100 GRIDPOINT_D96 ", " "%96, %97, %98, %99"
#define GRIDPOINT_D104 GRIDPOINT_D100 ", " "%100, %101, %102, %103"
#define GRIDPOINT_D108 GRIDPOINT_D104 ", " "%104, %105, %106, %107"
#define GRIDPOINT_D112 GRIDPOINT_D108 ", " "%108, %109, %110, %111"
#define GRIDPOINT_D116 GRIDPOINT_D112 ", " "%112, %113, %114, %115"
#define GRIDPOINT_D120 GRIDPOINT_D116 ", " "%116, %117, %118, %119"
#define GRIDPOINT_D124 GRIDPOINT_D120 ", " "%120, %121, %122, %123"
#define GRIDPOINT_D128 GRIDPOINT_D124 ", " "%124, %125, %126, %127"
#define GRIDPOINT_O4 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define GRIDPOINT_O8 GRIDPOINT_O4, "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define GRIDPOINT_O12 GRIDPOINT_O8, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
#define GRIDPOINT_O16 GRIDPOINT_O12, "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define GRIDPOINT_O20 GRIDPOINT_O16, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19])
#define GRIDPOINT_O24 GRIDPOINT_O20, "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define GRIDPOINT_O28 GRIDPOINT_O24, "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
#define GRIDPOINT_O32 GRIDPOINT_O28, "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define GRIDPOINT_O36 GRIDPOINT_O32, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
#define GRIDPOINT_O40 GRIDPOINT_O36, "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define GRIDPOINT_O44 GRIDPOINT_O40, "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43])
#define GRIDPOINT_O48 GRIDPOINT_O44, "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define GRIDPOINT_O52 GRIDPOINT_O48, "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51])
#define GRIDPOINT_O56 GRIDPOINT_O52, "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define GRIDPOINT_O60 GRIDPOINT_O56, "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59])
#define GRIDPOINT_O64 GRIDPOINT_O60, "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define GRIDPOINT_O68 GRIDPOINT_O64, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67])
#define GRIDPOINT_O72 GRIDPOINT_O68, "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define GRIDPOINT_O76 GRIDPOINT_O72, "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75])
#define GRIDPOINT_O80 GRIDPOINT_O76, "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define GRIDPOINT_O84 GRIDPOINT_O80, "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83])
#define GRIDPOINT_O88 GRIDPOINT_O84, "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define GRIDPOINT_O92 GRIDPOINT_O88, "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91])
#define GRIDPOINT_O96 GRIDPOINT_O92, "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define GRIDPOINT_O100 GRIDPOINT_O96, "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99])
#define GRIDPOINT_O104 GRIDPOINT_O100, "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define GRIDPOINT_O108 GRIDPOINT_O104, "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107])
#define GRIDPOINT_O112 GRIDPOINT_O108, "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define GRIDPOINT_O116 GRIDPOINT_O112, "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115])
#define GRIDPOINT_O120 GRIDPOINT_O116, "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define GRIDPOINT_O124 GRIDPOINT_O120, "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123])
#define GRIDPOINT_O128 GRIDPOINT_O124, "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

// R accumulator registers; the numbers of the operands after them follow as text.
#define GRIDPOINT_WGMMA_DESCRIPTORS(N, R, type, p0, p1, p2, p3, p4, p5, p6)                                                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {"    \
               GRIDPOINT_D##R "}, " p0 ", " p1 ", p, " p3 ", " p4 ", " p5 ", " p6 ";\n}"                                          \
               : GRIDPOINT_O##R                                                                                                  \
               : "l"(a), "l"(b), "r"(scale_d), "n"(kScaleA), "n"(kScaleB), "n"(kTransposedA), "n"(kTransposedB))
#define GRIDPOINT_WGMMA_REGISTERS(N, R, type, p0, p1, p2, p3, p4, p5, p6, p7, p8)                                                \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {"    \
               GRIDPOINT_D##R "}, {" p0 ", " p1 ", " p2 ", " p3 "}, " p4 ", p, " p6 ", " p7 ", " p8 ";\n}"                        \
               : GRIDPOINT_O##R                                                                                                  \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(scale_d), "n"(kScaleA), "n"(kScaleB), "n"(kTransposedB))

#define GRIDPOINT_WGMMA(N, R, ...)                                                                                               \
  template <uint32_t Flags>                                                                                                      \
  struct Wgmma<N, Flags> {                                                                                                       \
    static constexpr int kScaleA = Flags & kWgmmaNegatedA ? -1 : 1;                                                              \
    static constexpr int kScaleB = Flags & kWgmmaNegatedB ? -1 : 1;                                                              \
    static constexpr int kTransposedA = Flags & kWgmmaTransposedA ? 1 : 0;                                                       \
    static constexpr int kTransposedB = Flags & kWgmmaTransposedB ? 1 : 0;                                                       \
    static GRIDPOINT_DEVICE_MEMBER void run(float (&d)[R], uint64_t a, uint64_t b, uint32_t scale_d) {                           \
      if constexpr ((Flags & 1u) == kBf16) {                                                                                     \
        GRIDPOINT_WGMMA_CALL(GRIDPOINT_WGMMA_DESCRIPTORS, N, R, "bf16", GRIDPOINT_WGMMA_FIRST_7(__VA_ARGS__));                    \
      } else {                                                                                                                   \
        GRIDPOINT_WGMMA_CALL(GRIDPOINT_WGMMA_DESCRIPTORS, N, R, "f16", GRIDPOINT_WGMMA_FIRST_7(__VA_ARGS__));                     \
      }                                                                                                                          \
    }                                                                                                                            \
    static GRIDPOINT_DEVICE_MEMBER void run(float (&d)[R], const uint32_t (&a)[4], uint64_t b, uint32_t scale_d) {               \
      if constexpr ((Flags & 1u) == kBf16) {                                                                                     \
        GRIDPOINT_WGMMA_CALL(GRIDPOINT_WGMMA_REGISTERS, N, R, "bf16", __VA_ARGS__);                                              \
      } else {                                                                                                                   \
        GRIDPOINT_WGMMA_CALL(GRIDPOINT_WGMMA_REGISTERS, N, R, "f16", __VA_ARGS__);                                               \
      }                                                                                                                          \
    }                                                                                                                            \
  };
#define GRIDPOINT_WGMMA_CALL(macro, ...) GRIDPOINT_WGMMA_EXPAND(macro(__VA_ARGS__))
#define GRIDPOINT_WGMMA_EXPAND(...) __VA_ARGS__
#define GRIDPOINT_WGMMA_FIRST_7(p0, p1, p2, p3, p4, p5, p6, ...) p0, p1, p2, p3, p4, p5, p6

GRIDPOINT_WGMMA(8, 4, "%4", "%5", "%6", "%7", "%8", "%9", "%10", "%11", "%12")
GRIDPOINT_WGMMA(16, 8, "%8", "%9", "%10", "%11", "%12", "%13", "%14", "%15", "%16")
GRIDPOINT_WGMMA(24, 12, "%12", "%13", "%14", "%15", "%16", "%17", "%18", "%19", "%20")
GRIDPOINT_WGMMA(32, 16, "%16", "%17", "%18", "%19", "%20", "%21", "%22", "%23", "%24")
GRIDPOINT_WGMMA(40, 20, "%20", "%21", "%22", "%23", "%24", "%25", "%26", "%27", "%28")
GRIDPOINT_WGMMA(48, 24, "%24", "%25", "%26", "%27", "%28", "%29", "%30", "%31", "%32")
GRIDPOINT_WGMMA(56, 28, "%28", "%29", "%30", "%31", "%32", "%33", "%34", "%35", "%36")
GRIDPOINT_WGMMA(64, 32, "%32", "%33", "%34", "%35", "%36", "%37", "%38", "%39", "%40")
GRIDPOINT_WGMMA(72, 36, "%36", "%37", "%38", "%39", "%40", "%41", "%42", "%43", "%44")
GRIDPOINT_WGMMA(80, 40, "%40", "%41", "%42", "%43", "%44", "%45", "%46", "%47", "%48")
GRIDPOINT_WGMMA(88, 44, "%44", "%45", "%46", "%47", "%48", "%49", "%50", "%51", "%52")
GRIDPOINT_WGMMA(96, 48, "%48", "%49", "%50", "%51", "%52", "%53", "%54", "%55", "%56")
GRIDPOINT_WGMMA(104, 52, "%52", "%53", "%54", "%55", "%56", "%57", "%58", "%59", "%60")
GRIDPOINT_WGMMA(112, 56, "%56", "%57", "%58", "%59", "%60", "%61", "%62", "%63", "%64")
GRIDPOINT_WGMMA(120, 60, "%60", "%61", "%62", "%63", "%64", "%65", "%66", "%67", "%68")
GRIDPOINT_WGMMA(128, 64, "%64", "%65", "%66", "%67", "%68", "%69", "%70", "%71", "%72")
GRIDPOINT_WGMMA(136, 68, "%68", "%69", "%70", "%71", "%72", "%73", "%74", "%75", "%76")
GRIDPOINT_WGMMA(144, 72, "%72", "%73", "%74", "%75", "%76", "%77", "%78", "%79", "%80")
GRIDPOINT_WGMMA(152, 76, "%76", "%77", "%78", "%79", "%80", "%81", "%82", "%83", "%84")
GRIDPOINT_WGMMA(160, 80, "%80", "%81", "%82", "%83", "%84", "%85", "%86", "%87", "%88")
GRIDPOINT_WGMMA(168, 84, "%84", "%85", "%86", "%87", "%88", "%89", "%90", "%91", "%92")
GRIDPOINT_WGMMA(176, 88, "%88", "%89", "%90", "%91", "%92", "%93", "%94", "%95", "%96")
GRIDPOINT_WGMMA(184, 92, "%92", "%93", "%94", "%95", "%96", "%97", "%98", "%99", "%100")
GRIDPOINT_WGMMA(192, 96, "%96", "%97", "%98", "%99", "%100", "%101", "%102", "%103", "%104")
GRIDPOINT_WGMMA(200, 100, "%100", "%101", "%102", "%103", "%104", "%105", "%106", "%107", "%108")
GRIDPOINT_WGMMA(208, 104, "%104", "%105", "%106", "%107", "%108", "%109", "%110", "%111", "%112")
GRIDPOINT_WGMMA(216, 108, "%108", "%109", "%110", "%111", "%112", "%113", "%114", "%115", "%116")
GRIDPOINT_WGMMA(224, 112, "%112", "%113", "%114", "%115", "%116", "%117", "%118", "%119", "%120")
GRIDPOINT_WGMMA(232, 116, "%116", "%117", "%118", "%119", "%120", "%121", "%122", "%123", "%124")
GRIDPOINT_WGMMA(240, 120, "%120", "%121", "%122", "%123", "%124", "%125", "%126", "%127", "%128")
GRIDPOINT_WGMMA(248, 124, "%124", "%125", "%126", "%127", "%128", "%129", "%130", "%131", "%132")
GRIDPOINT_WGMMA(256, 128, "%128", "%129", "%130", "%131", "%132", "%133", "%134", "%135", "%136")

#endif

// d += a x b, or d = a x b without `scale_d`, on 64 rows and N columns: a and b by matrix descriptors (9.7.15.5.2). `Flags` are the type and
// kWgmmaTransposedA (a is M-major), kWgmmaTransposedB (b is N-major), kWgmmaNegatedA, kWgmmaNegatedB.
template <int N, uint32_t Flags>
GRIDPOINT_DEVICE void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool scale_d) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256, "wgmma has 8 to 256 columns, in steps of 8");
#ifdef __CUDACC__
  Wgmma<N, Flags>::run(d, a, b, scale_d ? 1u : 0u);
#else
  gridpoint_wgmma(d, a, b, N, Flags | (scale_d ? kWgmmaScaleD : 0u));
#endif
}

// As wgmma, with a in registers: those of mma_bf16 for the 16 rows of each warp.
template <int N, uint32_t Flags>
GRIDPOINT_DEVICE void wgmma_registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool scale_d) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256, "wgmma has 8 to 256 columns, in steps of 8");
  static_assert((Flags & kWgmmaTransposedA) == 0, "a in registers has no major-ness");
#ifdef __CUDACC__
  Wgmma<N, Flags>::run(d, a, b, scale_d ? 1u : 0u);
#else
  gridpoint_wgmma(d, reinterpret_cast<uint64_t>(&a[0]), b, N, Flags | kWgmmaRegistersA | (scale_d ? kWgmmaScaleD : 0u));
#endif
}

#endif

}  // namespace gridpoint
