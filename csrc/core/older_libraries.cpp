// A library built on a system of today that runs with glibc 2.28 and libstdc++ 8 (manylinux_2_28): the symbols that
// became newer since, in terms of the older ones. Compiled where CMake's FASTSSL_MANYLINUX asks for it, without
// link-time optimisation.

#ifdef FASTSSL_MANYLINUX

#include <new>

#ifdef __x86_64__
#define FASTSSL_FIRST_GLIBC "GLIBC_2.2.5"
#define FASTSSL_STAT_VERSION 1
#else
#define FASTSSL_FIRST_GLIBC "GLIBC_2.17"
#define FASTSSL_STAT_VERSION 0
#endif

#define FASTSSL_HIDDEN __attribute__((visibility("hidden")))

// The version before 2.29 sets errno in a wrapper, otherwise the same function.
#define FASTSSL_OLDER(result, name, parameters, arguments)            \
  result older_##name parameters;                                     \
  __asm__(".symver older_" #name ", " #name "@" FASTSSL_FIRST_GLIBC); \
  FASTSSL_HIDDEN result newer_##name parameters __asm__(#name);       \
  result newer_##name parameters { return older_##name arguments; }

struct stat;

extern "C" {
FASTSSL_OLDER(double, exp, (double x), (x))
FASTSSL_OLDER(double, exp2, (double x), (x))
FASTSSL_OLDER(double, log, (double x), (x))
FASTSSL_OLDER(double, log2, (double x), (x))
FASTSSL_OLDER(double, pow, (double x, double y), (x, y))
FASTSSL_OLDER(int, pthread_once, (int* control, void (*routine)()), (control, routine))

int __fxstat(int version, int file, struct stat* result);
FASTSSL_HIDDEN int fstat(int file, struct stat* result) { return __fxstat(FASTSSL_STAT_VERSION, file, result); }

// Reference counts are atomic always.
FASTSSL_HIDDEN char __libc_single_threaded = 0;

// std::ostringstream() and std::stringstream(), by the constructors that take a mode.
void _ZNSt7__cxx1119basic_ostringstreamIcSt11char_traitsIcESaIcEEC1ESt13_Ios_Openmode(void* self, int mode);
void _ZNSt7__cxx1118basic_stringstreamIcSt11char_traitsIcESaIcEEC1ESt13_Ios_Openmode(void* self, int mode);
FASTSSL_HIDDEN void _ZNSt7__cxx1119basic_ostringstreamIcSt11char_traitsIcESaIcEEC1Ev(void* self) {
  _ZNSt7__cxx1119basic_ostringstreamIcSt11char_traitsIcESaIcEEC1ESt13_Ios_Openmode(self, 16);
}
FASTSSL_HIDDEN void _ZNSt7__cxx1118basic_stringstreamIcSt11char_traitsIcESaIcEEC1Ev(void* self) {
  _ZNSt7__cxx1118basic_stringstreamIcSt11char_traitsIcESaIcEEC1ESt13_Ios_Openmode(self, 8 | 16);
}

// std::exception_ptr's counts, by the constructor that copies and the destructor.
void _ZNSt15__exception_ptr13exception_ptrC1ERKS0_(void* self, const void* other);
void _ZNSt15__exception_ptr13exception_ptrD1Ev(void* self);
FASTSSL_HIDDEN void _ZNSt15__exception_ptr13exception_ptr9_M_addrefEv(void* self) {
  void* copy;
  _ZNSt15__exception_ptr13exception_ptrC1ERKS0_(&copy, self);
}
FASTSSL_HIDDEN void _ZNSt15__exception_ptr13exception_ptr10_M_releaseEv(void* self) {
  _ZNSt15__exception_ptr13exception_ptrD1Ev(self);
}
}

namespace std {
[[noreturn]] FASTSSL_HIDDEN void __throw_bad_array_new_length() { throw bad_array_new_length(); }
}  // namespace std

#endif
