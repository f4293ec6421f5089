# Count the words of every text that was sent along; arguments are how many to show (10).
set -euo pipefail
top=${1:-10}
cat texts/*.txt | tr -cs '[:alpha:]' '\n' | tr '[:upper:]' '[:lower:]' | sort | uniq -c | sort -k1,1nr -k2 > counts.txt
echo "$(wc -l < counts.txt) different words; the $top most frequent:"
head -n "$top" counts.txt
