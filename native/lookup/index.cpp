// A tier index, prepared for lookups: its levels, and ranks of the most frequent ids.
#include <algorithm>
#include <numeric>

#include "lookup/lookup.h"
#include "lookup/lookup_ranks.h"

namespace saec {

namespace {

constexpr uint64_t kBlockIds = 256, kBaseBlocks = 256, kBitmapBytes = kBlockIds / 8, kPadding = 31;

// Appends the levels and returns the number of bytes that they take. Reads no byte of the index.
uint64_t lay_levels(uint64_t rows, const std::vector<uint64_t>& first_ranks, const uint8_t* index,
                    std::vector<Level>& levels) {
  uint64_t byte = 0;
  const auto at = [&] {  // index may be null if only the size is wanted
    return reinterpret_cast<const uint8_t*>(reinterpret_cast<uintptr_t>(index) + byte);
  };
  for (size_t tier = first_ranks.size(); --tier > 0;) {
    const uint64_t ids = tier + 1 < first_ranks.size() ? first_ranks[tier + 1] : rows;
    const uint64_t members = first_ranks[tier], blocks = (ids + kBlockIds - 1) / kBlockIds;
    Level level{ids, members, members < blocks * kBitmapBytes, at(), nullptr, nullptr};
    byte += (blocks + 1 + kBaseBlocks - 1) / kBaseBlocks * 8;
    level.counts = at();
    byte += (blocks + 1) * 2;
    level.leaves = at();
    byte += level.listed ? members : blocks * kBitmapBytes;
    levels.push_back(level);
  }
  return byte;
}

// Ranks of all positions of a level, from the ranks of its members. If the level is damaged, its
// positions get arbitrary ranks within range.
std::vector<uint16_t> ranks_of_positions(const Level& level, const std::vector<uint16_t>& members) {
  std::vector<uint16_t> ranks(level.ids);
  std::vector<bool> known(level.ids);
  for (uint64_t first = 0; first < level.ids; first += kBlockIds) {
    const uint64_t block = first / kBlockIds;
    const BlockMembers own = members_of(level, block);
    uint64_t member = own.start;
    const auto put = [&](uint64_t place) {
      const uint64_t position = std::min(first + place, level.ids - 1);
      ranks[position] = members[member++];
      known[position] = true;
    };
    const uint64_t last = std::min(own.start + std::min(own.count, kBlockIds), level.members);
    for (uint64_t i = 0; i < kBlockIds && member < last; ++i) {
      if (level.listed) put(level.leaves[member]);
      else if (level.leaves[block * kBitmapBytes + i / 8] >> i % 8 & 1) put(i);
    }
  }
  uint64_t next = level.members;
  for (uint64_t i = 0; i < level.ids; ++i)
    if (!known[i]) ranks[i] = static_cast<uint16_t>(std::min(next++, level.ids - 1));
  return ranks;
}

}  // namespace

uint64_t index_bytes(uint64_t rows, const std::vector<uint64_t>& first_ranks) {
  std::vector<Level> levels;
  return first_ranks.size() > 1 ? lay_levels(rows, first_ranks, nullptr, levels) + kPadding : 0;
}

void prepare_index(const std::vector<uint64_t>& first_ranks, const uint8_t* index, Table& table) {
  const uint64_t end = lay_levels(table.rows, first_ranks, index, table.levels);
  const std::vector<Level>& levels = table.levels;
  MemberRanks& members = table.members;
  while (members.levels < levels.size() && levels[members.levels].ids > MemberRanks::kMost)
    ++members.levels;
  members.ranks.resize(levels.back().members);  // few: the ids of the first tier
  std::iota(members.ranks.begin(), members.ranks.end(), uint16_t{0});
  for (size_t i = levels.size(); i > members.levels; --i)
    members.ranks = ranks_of_positions(levels[i - 1], members.ranks);
  members.ranks.push_back(0);
  if (members.levels < levels.size())
    table.ranked = {{static_cast<uint64_t>(levels[members.levels].bases - index), end}};
}

}  // namespace saec
