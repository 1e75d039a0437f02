# Adds up the digits of the event and checks the sum modulo nine against the digits as one number.
handler() {
  local event=$1 digits=${1//[!0-9]/} sum=0 remainder=0 at
  for ((at = 0; at < ${#digits}; at++)); do
    ((sum += ${digits:at:1}, remainder = (remainder * 10 + ${digits:at:1}) % 9))
  done
  ((sum % 9 == remainder)) || return 1
  answer="{\"digits\":${#digits},\"sum\":$sum}"
}
