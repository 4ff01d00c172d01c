#include "reports/html_text.h"

#include <openssl/evp.h>
#include <openssl/sha.h>

#include "reports/text.h"

namespace finesweep::reports {

std::string html_escaped(const std::string& text) {
  std::string escaped;
  for (const char c : on_one_line(valid_utf8(text))) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string json_for_script(const Json& json) {
  std::string escaped;
  // Inside JSON these three stand in strings alone.
  for (const char c : json.dump(-1, ' ', false, Json::error_handler_t::replace)) {
    switch (c) {
      case '<':
        escaped += "\\u003c";
        break;
      case '>':
        escaped += "\\u003e";
        break;
      case '&':
        escaped += "\\u0026";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string script_hash(const std::string& script) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(script.data()), script.size(), digest);
  unsigned char base64[64];
  const int length = EVP_EncodeBlock(base64, digest, SHA256_DIGEST_LENGTH);
  return "sha256-" + std::string(reinterpret_cast<const char*>(base64), static_cast<std::size_t>(length));
}

}  // namespace finesweep::reports
