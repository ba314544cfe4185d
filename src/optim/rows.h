/* The optimizer rows, one in each file of this room. */
#ifndef ZI_OPTIM_ROWS_H
#define ZI_OPTIM_ROWS_H

#include "optim/optim.h"

extern const zi_optim zi_optim_adamw;

#endif
