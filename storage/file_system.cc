#include "storage/file_system.h"

#include <sys/vfs.h>

#include <cstdint>
#include <cstdio>

#include "storage/posix.h"

namespace finesweep::storage {

namespace {

struct KnownFileSystem {
  std::uint32_t magic;  // statfs(2)
  const char* name;
  bool network;
};

constexpr KnownFileSystem kKnown[] = {
    {0x6969, "NFS", true},          {0x0BD00BD0, "Lustre", true},
    {0x47504653, "GPFS", true},     {0x00C36400, "Ceph", true},
    {0x19830326, "BeeGFS", true},   {0xFF534D42, "CIFS", true},
    {0xFE534D42, "SMB2", true},     {0x517B, "SMB", true},
    {0x5346414F, "AFS", true},      {0x01021997, "9p", true},
    {0x20030528, "OrangeFS", true}, {0x7461636F, "OCFS2", true},
    {0x01161970, "GFS2", true},     {0x65735546, "FUSE", true},
    {0xEF53, "ext4", false},        {0x58465342, "XFS", false},
    {0x9123683E, "Btrfs", false},   {0x2FC12FC1, "ZFS", false},
    {0x01021994, "tmpfs", false},   {0x794C7630, "overlayfs", false},
    {0xF2F52010, "F2FS", false},
};

}  // namespace

Result<FileSystem> file_system_of(const std::filesystem::path& path) {
  struct statfs info;
  if (::statfs(path.c_str(), &info) != 0) return system_error("look at the file system of", path);
  const auto magic = static_cast<std::uint32_t>(info.f_type);
  for (const KnownFileSystem& known : kKnown)
    if (known.magic == magic) return FileSystem{known.name, known.network};
  char hex[16];
  std::snprintf(hex, sizeof hex, "0x%x", magic);
  return FileSystem{hex, false};
}

}  // namespace finesweep::storage
