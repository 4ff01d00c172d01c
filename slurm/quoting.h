#pragma once

#include <string>
#include <string_view>

namespace finesweep::slurm {

/// One word of bash that means exactly `text`, on one line whatever it holds: '…', or $'…' where it has control
/// characters. A line of a batch script can thus never begin with what a user wrote. `text` holds no NUL, as no
/// path or argument does.
std::string shell_word(std::string_view text);

/// What is left of `text` as a job's name: letters, digits, dot, dash and underscore; anything else becomes a dash.
std::string job_name_of(std::string_view text);

}  // namespace finesweep::slurm
