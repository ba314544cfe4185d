/* What a rule header is written in: C11 on the host, CUDA C++ on the device. */
#ifndef ZI_OPTIM_RULE_H
#define ZI_OPTIM_RULE_H

#include <math.h>

#include "base/shared.h"

enum { ZI_MAX_SCALARS = 12 };

#define ZI_RULE ZI_SHARED

#endif
