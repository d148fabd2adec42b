// Runs every kernel of every instruction set over many shapes and holds the results against plain loops in double.
//
//   drive_kernels [INSTRUCTION_SET [small]]      exits 1 where a result is wrong; a sanitizer ends it sooner
//
// small: without what needs several threads, for valgrind.
#include "drive.hpp"
#include "helpers.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif

using namespace batchnorm;

int main(int count, char** arguments) {
#if defined(_OPENMP)
  omp_set_num_threads(3);
#endif
  bool ran = false;
  tests::Findings findings;
  for (const Kernels* const* k = available(); *k != nullptr; ++k) {
    if (count > 1 && std::strcmp(arguments[1], (*k)->name) != 0) continue;
    const std::int64_t before = findings.compared;
    tests::drive_normalization(**k, findings);
    if (count < 3) {
      tests::drive_large_normalization(**k, findings);
      tests::drive_steps(**k, findings);
      for (int again = 0; again < 3; ++again) {  // helpers come, go to sleep and come back
        tests::drive_normalization_with_helpers(**k, findings);
        const Helped helped(3);
        tests::drive_steps(**k, findings);
      }
    }
    std::printf("%s: %lld results compared\n", (*k)->name, static_cast<long long>(findings.compared - before));
    std::fflush(stdout);
    ran = true;
  }
  if (!ran) std::printf("no such instruction set here\n");
  if (findings.wrong > 0) std::printf("%lld results are wrong\n", static_cast<long long>(findings.wrong));
  return ran && findings.wrong == 0 ? 0 : 1;
}
