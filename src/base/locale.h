/* Numbers in files, and those that are compared, are printed and read as in C: a program that has
 * set another locale ("0,5") must not write other bytes, nor read none. Of the calling thread. */
#ifndef ZI_BASE_LOCALE_H
#define ZI_BASE_LOCALE_H

#include <locale.h>

/* What zi_locale_leave takes back. */
static inline locale_t zi_locale_enter(void)
{
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    return uselocale(plain); /* of 0, no memory: changes nothing */
}

static inline void zi_locale_leave(locale_t callers)
{
    locale_t plain = uselocale(callers);
    if (plain != callers)
        freelocale(plain);
}

#endif
