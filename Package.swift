// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0
// The layers of smolvmm, bottom to top: a target imports only targets above it in this list.

import PackageDescription

let package = Package(
    name: "smolvmm",
    platforms: [.macOS(.v26)],
    products: [
        .executable(name: "smolvmm", targets: ["smolvmm"]),
        // For the programs in tools/.
        .library(name: "Virtio", targets: ["Virtio", "DiskImage", "GuestMemory", "Bus", "Snapshot"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
    ],
    targets: [
        .target(name: "CHost"),
        .target(name: "CFirmware", path: "firmware"),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
        .systemLibrary(name: "CLzma", pkgConfig: "liblzma", providers: [.apt(["liblzma-dev"])]),
        .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
        .systemLibrary(name: "CLz4", pkgConfig: "liblz4", providers: [.apt(["liblz4-dev"])]),
        .systemLibrary(name: "CAio", providers: [.apt(["libaio-dev"])]),
        .systemLibrary(name: "CSlirp", providers: [.apt(["libslirp-dev"])]),
        .target(name: "CAgentFiles"),
        .target(name: "AgentProtocol", dependencies: ["CAgentFiles"]),
        .target(name: "Host", dependencies: ["CHost"]),
        .target(name: "GuestMemory", dependencies: ["CHost"]),
        .target(name: "Snapshot"),
        .target(name: "Bus", dependencies: ["GuestMemory"]),
        .target(name: "X86", dependencies: ["Snapshot", "GuestMemory"]),
        .target(name: "Hypervisor", dependencies: ["X86", "Bus", "GuestMemory", "Snapshot"]),
        .target(
            name: "HypervisorSoftware",
            dependencies: ["CHost", "Host", "Hypervisor", "X86", "Bus", "GuestMemory", "Snapshot"]),
        .target(
            name: "HypervisorKVM",
            dependencies: ["CHost", "CFirmware", "Host", "Hypervisor", "X86", "Bus", "GuestMemory", "Snapshot"]),
        .target(name: "DiskImage", dependencies: ["CHost", "Host", "CAio", "CZlib", "CZstd"]),
        .target(name: "Virtio", dependencies: ["CHost", "DiskImage", "Bus", "GuestMemory", "Snapshot"]),
        .target(
            name: "Devices",
            dependencies: ["Hypervisor", "X86", "Bus", "GuestMemory", "Snapshot"]),
        .target(name: "Network", dependencies: ["CHost", "CSlirp", "Host", "Virtio"]),
        .target(
            name: "Boot",
            dependencies: [
                "CFirmware", "CHost", "CZstd", "CLzma", "CZlib", "CLz4", "GuestMemory", "Host", "X86",
            ]),
        .target(
            name: "Bundle",
            dependencies: [
                "CHost", "Host", "CZstd", "DiskImage", "GuestMemory", "Snapshot",
                .product(name: "Crypto", package: "swift-crypto"),
            ]),
        .target(
            name: "Machine",
            dependencies: [
                "CHost", "Host", "Boot", "Bundle", "Devices", "Network", "Virtio", "DiskImage",
                "HypervisorSoftware", "HypervisorKVM", "Hypervisor", "X86", "Bus", "GuestMemory", "Snapshot",
            ]),
        .executableTarget(
            name: "smolvmm",
            dependencies: [
                "CHost", "Host", "AgentProtocol", "HypervisorSoftware", "Machine", "Bundle", "DiskImage",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            // The runtime's archives do not say that they need no executable stack, and the linker believes the worst.
            linkerSettings: [.unsafeFlags(["-Xlinker", "-z", "-Xlinker", "noexecstack"], .when(platforms: [.linux]))]),
        .target(name: "CNative", path: "Tests/Support/CNative"),
        .target(name: "CBareGuests", path: "guest/bare"),
        .target(name: "TestSupport", path: "Tests/Support/TestSupport"),
        .testTarget(name: "AgentProtocolTests", dependencies: ["AgentProtocol", "CAgentFiles", "TestSupport"]),
        .testTarget(name: "GuestMemoryTests", dependencies: ["GuestMemory"]),
        .testTarget(
            name: "HypervisorTests",
            dependencies: [
                "CBareGuests", "HypervisorSoftware", "HypervisorKVM", "Hypervisor", "X86", "Bus", "GuestMemory",
                "Snapshot",
            ]),
        .testTarget(
            name: "HypervisorSoftwareTests",
            dependencies: [
                "CNative", "TestSupport", "HypervisorSoftware", "Devices", "Hypervisor", "X86", "Bus", "GuestMemory",
                "Snapshot",
            ]),
        .testTarget(name: "DiskImageTests", dependencies: ["TestSupport", "DiskImage"]),
        .testTarget(
            name: "VirtioTests", dependencies: ["TestSupport", "Virtio", "DiskImage", "Bus", "GuestMemory", "Snapshot"]),
        .testTarget(name: "NetworkTests", dependencies: ["Network", "Virtio"]),
        .testTarget(
            name: "DevicesTests",
            dependencies: ["Devices", "Hypervisor", "X86", "Bus", "GuestMemory", "Snapshot"]),
        .testTarget(
            name: "BootTests",
            dependencies: [
                "TestSupport", "Boot", "Host", "Devices", "HypervisorSoftware", "Hypervisor", "X86", "Bus",
                "GuestMemory", "CZstd", "CLzma", "CZlib", "CLz4",
            ]),
        .testTarget(
            name: "BundleTests",
            dependencies: [
                "TestSupport", "Bundle", "CZstd", "DiskImage", "GuestMemory",
                .product(name: "Crypto", package: "swift-crypto"),
            ]),
        .testTarget(
            name: "MachineTests",
            dependencies: [
                "CBareGuests", "TestSupport", "Machine", "Host", "Bundle", "Devices", "Hypervisor", "X86",
                "GuestMemory", "Snapshot",
            ]),
        .testTarget(
            name: "smolvmmTests",
            dependencies: [
                "smolvmm", "Machine", "Bundle", "DiskImage",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ]),
    ],
    swiftLanguageModes: [.v6]
)

for target in package.targets where target.type != .system {
    target.swiftSettings = [
        .strictMemorySafety(),
        .enableUpcomingFeature("ExistentialAny"),
        .enableUpcomingFeature("MemberImportVisibility"),
        .enableUpcomingFeature("InternalImportsByDefault"),
        .treatAllWarnings(as: .error),
    ]
}
