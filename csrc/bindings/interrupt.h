#pragma once

namespace fastssl {

// `check` returns non-zero when the user has asked to stop; called between rounds, from the calling thread.
void set_interrupt_check(int (*check)());

}  // namespace fastssl
