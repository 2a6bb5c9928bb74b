// A condition on what the user gave: the message is all that is said.
#ifndef DALI_MIX_REQUIRE_H_
#define DALI_MIX_REQUIRE_H_

#include "dali/core/error_handling.h"
#include "dali/core/format.h"

#define DALI_MIX_REQUIRE(condition, ...)                           \
  do {                                                             \
    if (!(condition)) DALI_FAIL(::dali::make_string(__VA_ARGS__)); \
  } while (false)

#endif  // DALI_MIX_REQUIRE_H_
