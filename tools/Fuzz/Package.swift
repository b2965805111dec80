// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0
// Fuzzers for what a guest or a stranger's file can say to smolvmm. tools/fuzz-inputs builds and runs them.

import PackageDescription

let package = Package(
    name: "Fuzz",
    platforms: [.macOS(.v26)],
    dependencies: [.package(name: "smolvmm", path: "../..")],
    targets: [
        .target(name: "FuzzDriver"),
        .executableTarget(
            name: "FuzzVirtio", dependencies: ["FuzzDriver", .product(name: "Virtio", package: "smolvmm")]),
        .executableTarget(
            name: "FuzzQcow2", dependencies: ["FuzzDriver", .product(name: "Virtio", package: "smolvmm")]),
    ],
    swiftLanguageModes: [.v6]
)

for target in package.targets {
    target.linkerSettings = [.unsafeFlags(["-sanitize=fuzzer", "-use-ld=lld"])]
    target.swiftSettings = [
        .strictMemorySafety(), .enableUpcomingFeature("ExistentialAny"),
        .enableUpcomingFeature("MemberImportVisibility"),
        .treatAllWarnings(as: .error),
    ]
}
