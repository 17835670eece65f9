// A profiler's side of NVTX 3 that writes down what it hears, a line for each call, into a file beside this library, of its name and `.heard`:
//
//   domain NAME | string DOMAIN NAME | push THREAD DOMAIN NAME | pop THREAD DOMAIN | stream NAME
//
// With GRIDPOINT_TEST_NVTX_REFUSES set it refuses to begin; with GRIDPOINT_TEST_NVTX_LATE it wants no ranges before a stream is named. The layouts are those of NVTX 3's binary interface (nvtxTypes.h, nvToolsExt.h).

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef void (*Function)(void);

typedef struct Callbacks {
  size_t bytes;
  int (*get_module_function_table)(int module, Function*** table, unsigned int* entries);
} Callbacks;

typedef struct VersionInfo {
  size_t bytes;
  uint32_t version;
  uint32_t reserved;
  void (*set_injection_version)(uint32_t version);
} VersionInfo;

typedef struct EventAttributes {
  uint16_t version;
  uint16_t bytes;
  uint32_t category;
  int32_t color_type;
  uint32_t color;
  int32_t payload_type;
  int32_t reserved;
  uint64_t payload;
  int32_t message_type;  // 1: text; 3: a registered name
  const void* message;
} EventAttributes;

static FILE* file;

static long thread(void) { return syscall(SYS_gettid); }

static const char* name_of(const void* handle) { return handle ? (const char*)handle : "(null)"; }

// Domains and registered names are copies of their text here.
static void* copy(const char* text) {
  void* made = malloc(strlen(text) + 1);
  if (made) strcpy(made, text);
  return made;
}

static void* create_domain(const char* name) {
  fprintf(file, "domain %s\n", name);
  return copy(name);
}

static void* register_string(void* domain, const char* name) {
  fprintf(file, "string %s %s\n", name_of(domain), name);
  return copy(name);
}

static int push(void* domain, const EventAttributes* attributes) {
  int known = attributes->version == 3 && attributes->bytes == sizeof(EventAttributes) &&
              (attributes->message_type == 1 || attributes->message_type == 3);
  fprintf(file, "push %ld %s %s\n", thread(), name_of(domain), known ? name_of(attributes->message) : "(unknown attributes)");
  fflush(file);
  return 0;
}

static int pop(void* domain) {
  fprintf(file, "pop %ld %s\n", thread(), name_of(domain));
  fflush(file);
  return 0;
}

// The table of core 2, where ranges are: whoever owns it lets us write to it at any time.
static Function** ranges;

static void want_ranges(void) {
  *ranges[4] = (Function)push;
  *ranges[5] = (Function)pop;
  *ranges[10] = (Function)register_string;
  *ranges[12] = (Function)create_domain;
}

static void name_stream(void* stream, const char* name) {
  fprintf(file, "stream %s\n", stream ? name : "(null)");
  want_ranges();
}

int InitializeInjectionNvtx2(const void* (*get_export_table)(uint32_t)) {
  Dl_info self;
  char path[4096];
  if (getenv("GRIDPOINT_TEST_NVTX_REFUSES") || !dladdr((void*)push, &self)) return 0;
  snprintf(path, sizeof(path), "%s.heard", self.dli_fname);
  if (!(file = fopen(path, "w"))) return 0;
  const Callbacks* callbacks = get_export_table(1);
  const VersionInfo* version = get_export_table(3);
  if (!callbacks || callbacks->bytes < sizeof(Callbacks) || !version || version->version < 2) return 0;
  version->set_injection_version(3);
  // A profiler may ask for each of the six modules, and for what there is not.
  for (int module = 0; module <= 7; ++module) {
    Function** table = 0;
    unsigned int entries = 0;
    int there = callbacks->get_module_function_table(module, &table, &entries);
    if (there != (module >= 1 && module <= 6)) return 0;
    if (!there) continue;
    // Entry 0 is none, and a null address ends the table.
    if (!table || table[0] || table[entries]) return 0;
    for (unsigned int entry = 1; entry < entries; ++entry) {
      if (!table[entry]) return 0;
    }
    if (module == 2) *table[5] = (Function)name_stream;
    if (module == 5) {
      if (entries < 16) return 0;
      ranges = table;
      if (!getenv("GRIDPOINT_TEST_NVTX_LATE")) want_ranges();
    }
  }
  return get_export_table(2) == 0;
}
