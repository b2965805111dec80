// SPDX-License-Identifier: Apache-2.0
// The software CPU as tests want it: whatever the engine does, it does from the first execution on.

import X86

@testable import HypervisorSoftware

extension SoftwareConfiguration {
    /// One processor; the translator does not wait until code runs often, and has as little room as it may have.
    static func eager(_ engine: SoftwareEngine, heat: UInt8 = 1) -> SoftwareConfiguration {
        SoftwareConfiguration(
            model: .x86_64_v2, processors: 1, engine: engine, translationHeat: heat,
            translationCache: TranslationOptions.cacheSizes.lowerBound << 20)
    }
}
