/* One wheel, fast everywhere: gcc builds a function marked MG_CLONED once per instruction set, and the
 * loader picks (an ifunc). Elsewhere (clang, MSVC, not x86-64, musl) the macro is empty. */
#ifndef MINIGRAD_CLONES_H
#define MINIGRAD_CLONES_H

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && defined(__x86_64__) && defined(__GLIBC__)
#define MG_CLONED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MG_CLONED
#endif

/* What a clone calls must become part of it: a function of its own is built for baseline x86-64 alone. */
#if defined(__GNUC__)
#define MG_INLINED __attribute__((always_inline))
#else
#define MG_INLINED
#endif

#endif
