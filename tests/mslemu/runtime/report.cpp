// Findings: one line each, "kind TAB file TAB line TAB offset TAB text". Where only a program counter is known, `file`
// is empty and `offset` is its place in the compiled kernel, for addr2line; else `offset` is -1.
#include <elf.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <mutex>
#include <set>
#include <string>

#include "emulator.h"

static const int MAX_FINDINGS = 40;
static std::mutex guard;
static std::string findings;
static std::set<std::string> seen; // one finding per kind and place
static const char *library_begin, *library_end;

static int find_library(dl_phdr_info* info, size_t, void* path) {
  if (!info->dlpi_name || strcmp(info->dlpi_name, (const char*)path) != 0) { return 0; }
  library_begin = library_end = (const char*)info->dlpi_addr;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const auto& segment = info->dlpi_phdr[i];
    const char* end = library_begin + segment.p_vaddr + segment.p_memsz;
    if (segment.p_type == PT_LOAD && end > library_end) { library_end = end; }
  }
  return 1;
}

void clear_findings(const char* library) {
  findings.clear();
  seen.clear();
  library_begin = library_end = nullptr;
  dl_iterate_phdr(find_library, (void*)library);
}

bool is_in_kernel_library(const void* address) {
  return (const char*)address >= library_begin && (const char*)address < library_end;
}

static void add(const char* kind, const char* file, int line, long offset, const char* format, va_list arguments) {
  char text[400], key[400], row[1000];
  vsnprintf(text, sizeof text, format, arguments);
  snprintf(key, sizeof key, "%s|%s|%d|%ld", kind, file, line, offset);
  Holding lock_and_memory;
  std::lock_guard<std::mutex> lock(guard);
  if (int(seen.size()) >= MAX_FINDINGS || !seen.insert(key).second) { return; }
  snprintf(row, sizeof row, "%s\t%s\t%d\t%ld\t%s\n", kind, file, line, offset, text);
  findings += row;
}

void report_at(const char* kind, msl_place place, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  add(kind, place.file ? place.file : "", place.line, -1, format, arguments);
  va_end(arguments);
}

void report_pc(const char* kind, const void* pc, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  add(kind, "", 0, is_in_kernel_library(pc) ? (const char*)pc - library_begin : -1, format, arguments);
  va_end(arguments);
}

void copy_findings(char* target, uint64_t capacity) { snprintf(target, capacity, "%s", findings.c_str()); }
