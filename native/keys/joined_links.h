// Tables whose keys are decoded together: those of all patches of a chain, or that of a base alone.
//
// Patches have classes of their base: the same prefix codes and values, but for the first part, in strings of mostly
// the same parts. Keys of such classes are decoded as one group, each from the strings of its own patch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "keys/keyed_table.h"

namespace saec {

// A class of one of the tables.
struct JoinedClass {
  const KeyedClass* own;
  const float* values;   // of its table
  uint32_t link, alike;  // classes with the same number are the same but for their first parts
};

class JoinedLinks {
 public:
  // Tables and functions must outlive the result, where they are.
  explicit JoinedLinks(std::vector<KeyedLink> links) : links_(std::move(links)) {
    std::map<std::string, uint32_t> numbers;
    for (uint32_t link = 0; link < links_.size(); ++link) {
      const KeyedTable& table = *links_[link].table;
      for (const KeyedClass& own : table.classes) {
        const auto fresh = static_cast<uint32_t>(links_.size() > 1 ? numbers.size() : classes_.size());
        const uint32_t alike =
            links_.size() > 1 ? numbers.emplace(content(table, own), fresh).first->second : fresh;
        classes_.push_back({&own, table.values.data(), link, alike});
      }
    }
    sort();
  }

  const std::vector<KeyedLink>& links() const { return links_; }

  // Of a base alone.
  const KeyedTable& table() const { return *links_.front().table; }

  // Classes that are alike follow each other. Of one link, they are in its own order.
  const std::vector<JoinedClass>& classes() const { return classes_; }

  // Places of classes, those of the first link first.
  const std::vector<uint32_t>& by_link() const { return by_link_; }

  // The place of the class of each first symbol of a link.
  const uint32_t* class_of_root(size_t link) const { return class_of_root_[link].data(); }

 private:
  // A class without its first part.
  static std::string content(const KeyedTable& table, const KeyedClass& own) {
    std::string found;
    const auto put = [&found](const auto* from, size_t count) {
      found.append(reinterpret_cast<const char*>(from), count * sizeof *from);
    };
    put(&own.axes, 1);
    for (const KeyedPart& part : own.parts) {
      const std::vector<uint32_t> code = part.code.described();
      const auto size = static_cast<uint32_t>(code.size());
      for (const uint32_t* number : {&part.axes, &part.first_axis, &part.string, &size}) put(number, 1);
      put(code.data(), code.size());
      put(table.values.data() + part.first_value, part.code.symbols() * part.axes);
    }
    return found;
  }

  // Brings classes that are alike together, and finds their places.
  void sort() {
    std::vector<uint32_t> order(classes_.size());
    for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [this](uint32_t a, uint32_t b) { return classes_[a].alike < classes_[b].alike; });
    by_link_.resize(order.size());
    std::vector<JoinedClass> sorted;
    for (uint32_t place = 0; place < order.size(); ++place) {
      by_link_[order[place]] = place;
      sorted.push_back(classes_[order[place]]);
    }
    classes_ = std::move(sorted);
    const uint32_t* first = by_link_.data();
    for (const KeyedLink& link : links_) {
      std::vector<uint32_t>& places = class_of_root_.emplace_back();
      for (const uint16_t own : link.table->class_of_root) places.push_back(first[own]);
      first += link.table->classes.size();
    }
  }

  std::vector<KeyedLink> links_;
  std::vector<JoinedClass> classes_;
  std::vector<uint32_t> by_link_;
  std::vector<std::vector<uint32_t>> class_of_root_;
};

}  // namespace saec
