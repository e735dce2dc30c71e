// Arguments live between gaps that nothing may touch, so that even unchecked kernels fault when they stray.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "emulator.h"

static const uint64_t PAGE = 4096, GAP = 16 << 20;

extern "C" Buffer* msl_allocate(uint64_t size, const char* name, int is_output, int is_initialised) {
  uint64_t room = (size + 15) / 16 * 16;
  uint64_t pages = room == 0 ? PAGE : (room + PAGE - 1) / PAGE * PAGE;
  char* mapping =
      (char*)mmap(nullptr, pages + 2 * GAP, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) { return nullptr; }
  if (mprotect(mapping + GAP, pages, PROT_READ | PROT_WRITE) != 0) {
    munmap(mapping, pages + 2 * GAP);
    return nullptr;
  }
  return new Buffer{mapping + GAP + pages - room, size, mapping, pages + 2 * GAP, strdup(name), is_output != 0,
                    is_initialised != 0, nullptr};
}

extern "C" void msl_free(Buffer* buffer) {
  munmap(buffer->mapping, buffer->mapping_size);
  free(buffer->name);
  delete buffer;
}

extern "C" char* msl_bytes(Buffer* buffer) { return buffer->bytes; }
