/* A copy that goes past the caches: for what is not read again soon. It spares the read of every
 * line that is written, a third of the traffic of a copy, which the C library does for copies
 * larger than the caches alone. */
#ifndef ZI_CKPT_STREAM_H
#define ZI_CKPT_STREAM_H

#include <stddef.h>

/* As memcpy, done when it returns, for other threads too. */
void zi_stream_copy(void *to, const void *from, size_t bytes);

#endif
