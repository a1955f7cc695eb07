// Preloaded into a server: reads from offset SLOW_FROM of a file on wait as long as the file SLOW_GATE exists, as
// those of a disk that does not answer.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static void wait_for_gate(off_t offset) {
  const char *from = getenv("SLOW_FROM"), *gate = getenv("SLOW_GATE");
  while (from && gate && offset >= atol(from) && access(gate, F_OK) == 0) usleep(1000);
}

typedef ssize_t (*Read)(int, void *, size_t, off_t);

ssize_t pread(int descriptor, void *to, size_t bytes, off_t offset) {
  wait_for_gate(offset);
  return ((Read)dlsym(RTLD_NEXT, "pread"))(descriptor, to, bytes, offset);
}

ssize_t pread64(int descriptor, void *to, size_t bytes, off_t offset) {
  wait_for_gate(offset);
  return ((Read)dlsym(RTLD_NEXT, "pread64"))(descriptor, to, bytes, offset);
}
