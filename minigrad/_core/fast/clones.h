/* One wheel, fast everywhere: gcc builds a function marked MG_CLONED once per instruction set, and the
 * loader picks one (an ifunc). With clang, MSVC or musl, or not on x86-64, the macro is empty. */
#ifndef MINIGRAD_CLONES_H
#define MINIGRAD_CLONES_H

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && defined(__x86_64__) && defined(__GLIBC__)
#define MG_CLONED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MG_CLONED
#endif

/* What a clone calls must be inlined: a separate function is built for baseline x86-64 only. */
#if defined(__GNUC__)
#define MG_INLINED __attribute__((always_inline))
#else
#define MG_INLINED
#endif

#endif
