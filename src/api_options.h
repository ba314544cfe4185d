/* Options as users give them, turned into what the zero room uses. */
#ifndef ZI_API_OPTIONS_H
#define ZI_API_OPTIONS_H

#include "zero/zero.h"

/* Errors: ERR_CONFIG or ERR_UNSUPPORTED with name, value and range. */
zopt_status zi_options_read(const zopt_options *options, zi_zero_config *config);

/* What transports are told of NCCL. Errors: ERR_CONFIG; what is wrong is as by default then. */
zopt_status zi_options_nccl(const zopt_options *options, zi_comm_config *config);

#endif
