// Whether the user has asked to stop (Ctrl-C).
#pragma once
#include <stdexcept>

namespace fastssl {

struct Interrupted : std::runtime_error {
  Interrupted() : std::runtime_error("fastssl: interrupted") {}
};

// `check` returns non-zero when the user has asked to stop; called between rounds, from the calling thread.
void set_interrupt_check(int (*check)());

// Throws Interrupted when the user has asked to stop.
void poll_interrupt();

}  // namespace fastssl
