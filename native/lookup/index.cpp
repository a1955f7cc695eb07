// A tier index, prepared for lookups: its levels, and a hash of the most frequent ids.
#include <algorithm>

#include "lookup/lookup.h"
#include "lookup/lookup_ranks.h"

namespace saec {

namespace {

// Ids that are found by a hash. With Zipf's law, exponent 1.05, and ten million rows seven lookups in
// ten ask for one of so many.
constexpr uint64_t kHotRanks = 1 << 14;
static_assert(kHotRanks <= 1 << 16);

constexpr uint64_t kBlockIds = 256, kBaseBlocks = 256, kBitmapBytes = kBlockIds / 8, kPadding = 31;

// The levels and where they end. Nothing is read.
uint64_t lay_levels(uint64_t rows, const std::vector<uint64_t>& first_ranks, const uint8_t* index,
                    std::vector<Level>& levels) {
  uint64_t byte = 0;
  const auto at = [&] {  // an index that is null gives no places, but sizes
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

// Positions of ascending members, by one pass over a level.
class Members {
 public:
  explicit Members(const Level& level) : level_(level) {}

  // Of a level that contradicts itself any position below ids.
  uint64_t position(uint64_t member) {
    const uint64_t last = (level_.ids - 1) / kBlockIds;
    while (block_ < last && members_of(level_, block_ + 1).start <= member) ++block_;
    const uint64_t first = block_ * kBlockIds;
    const uint64_t offset =
        level_.listed ? level_.leaves[member] : set_bit(member - members_of(level_, block_).start);
    return std::min(first + offset, level_.ids - 1);
  }

 private:
  // The place of the block's number-th one.
  uint64_t set_bit(uint64_t number) const {
    for (uint64_t bit = 0; bit < kBlockIds; ++bit) {
      const bool set = level_.leaves[block_ * kBitmapBytes + bit / 8] >> bit % 8 & 1;
      if (set && number-- == 0) return bit;
    }
    return kBlockIds - 1;
  }

  const Level& level_;
  uint64_t block_ = 0;
};

uint64_t rank_within(const std::vector<Level>& levels, size_t first, uint64_t position) {
  for (size_t i = first; i < levels.size(); ++i) {
    const Level& level = levels[i];
    const Passed passed =
        level.listed ? passed_in_list(level, position) : passed_in_bits(level, position);
    if (!passed.inside)
      return std::min(level.members + position - std::min(passed.before, position), level.ids - 1);
    position = std::min(passed.before, level.members - 1);
  }
  return position;
}

}  // namespace

uint64_t index_bytes(uint64_t rows, const std::vector<uint64_t>& first_ranks) {
  std::vector<Level> levels;
  return first_ranks.size() > 1 ? lay_levels(rows, first_ranks, nullptr, levels) + kPadding : 0;
}

void prepare_index(const std::vector<uint64_t>& first_ranks, const uint8_t* index, Table& table) {
  lay_levels(table.rows, first_ranks, index, table.levels);
  const std::vector<Level>& levels = table.levels;
  for (size_t i = 0; i < levels.size() && table.members.ranks.empty(); ++i) {
    if (levels[i].members > MemberRanks::kMost) continue;
    table.members.level = i;
    for (uint64_t member = 0; member < levels[i].members; ++member)
      table.members.ranks.push_back(static_cast<uint16_t>(rank_within(levels, i + 1, member)));
    table.members.ranks.push_back(0);  // for reads of four bytes
  }
  if (table.members.level == 0) return;  // nothing is found sooner by a hash
  size_t depth = 0;  // members of the level before are all hot
  while (depth < levels.size() && levels[depth].members > kHotRanks) ++depth;
  const uint64_t count = depth < levels.size() ? levels[depth].members : 0;
  if (count == 0 || table.rows > HotRanks::kMostRows) return;
  HotRanks& hot = table.hot;
  const int bits = std::bit_width(count - 1);
  hot.shift = 32 - std::max(bits, 1);
  hot.ids.assign(size_t{2} << (32 - hot.shift), HotRanks::kEmpty);
  hot.ranks.assign(hot.ids.size() + 1, 0);
  std::vector<Members> members;
  for (size_t i = 0; i <= depth; ++i) members.emplace_back(levels[i]);
  std::vector<std::pair<uint64_t, uint64_t>> found;  // rank, id
  for (uint64_t member = 0; member < count; ++member) {
    uint64_t id = member;
    for (size_t i = depth + 1; i-- > 0;) id = members[i].position(id);
    found.push_back({rank_within(levels, depth + 1, member), id});
  }
  // The most frequent ones first: those that find no slot are found by the levels.
  std::sort(found.begin(), found.end());
  for (const auto& [rank, id] : found) {
    size_t slot = hot.first_slot(static_cast<uint32_t>(id));
    slot += hot.ids[slot] != HotRanks::kEmpty;
    if (hot.ids[slot] != HotRanks::kEmpty) continue;
    hot.ids[slot] = static_cast<uint32_t>(id);
    hot.ranks[slot] = static_cast<uint16_t>(rank);
  }
}

}  // namespace saec
