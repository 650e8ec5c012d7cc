# Regular expressions, hashes, sorting, bignums and formats; see userland-suite.
use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use List::Util qw(sum reduce);

my %count;
my $text = join(' ', map { chr(97 + $_ % 26) x (1 + $_ % 7) . ($_ * 7919 % 1000) } 1 .. 20000);
$count{$1}++ while $text =~ /([a-z]+)\d*[02468]\b/g;
print join(',', map { "$_=$count{$_}" } sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count), "\n";
(my $swapped = $text) =~ s/(\w)(\w+)/$2$1/g;
print sha256_hex($swapped), "\n";
printf "%.15g %.15g %.15g %.10e\n", sin(1), exp(10), atan2(1, 3), 2**0.5;
my ($f, $g) = ('0', '1');
for (1 .. 300) {
	# Decimal addition by hand: strings and carries.
	my ($carry, $sum) = (0, '');
	my @x = reverse split //, $f;
	my @y = reverse split //, $g;
	for my $i (0 .. $#y) {
		my $digit = ($x[$i] // 0) + $y[$i] + $carry;
		$sum = $digit % 10 . $sum;
		$carry = int($digit / 10);
	}
	($f, $g) = ($g, $carry ? "1$sum" : $sum);
}
print "$g\n";
print pack('w/a* N n C', 'packed', 1, 2, 3) =~ s/(.)/sprintf '%02x', ord $1/gers, "\n";
my @sieve = (1) x 20000;
for my $i (2 .. 141) { if ($sieve[$i]) { for (my $j = $i * $i; $j < @sieve; $j += $i) { $sieve[$j] = 0 } } }
print sum(grep { $sieve[$_] } 2 .. $#sieve), "\n";
